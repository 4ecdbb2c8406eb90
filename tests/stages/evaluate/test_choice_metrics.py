"""Ties count as a part of one, and lengths that give an answer away are found."""

from __future__ import annotations

import math

import pytest

from teenytinyllama.stages.evaluate.choice_metrics import length_rule, prefer, preferences


@pytest.mark.parametrize(
    ("values", "right", "score", "is_tie"),
    [
        ([-1.0, -2.0], 0, 1, False),
        ([-1.0, -2.0], 1, 0, False),
        ([-2.0, -2.0], 1, 1 / 2, True),
        ([-2.0, -2.0, -2.0, -3.0], 2, 1 / 3, True),
        ([-2.0, -2.0, -3.0], 2, 0, True),
        ([-100.0, -100.00001], 1, 1 / 2, True),  # fp32 noise
        ([-100.0, -100.01], 1, 0, False),
    ],
)
def test_tie_counts_as_a_part(values, right, score, is_tie):
    assert prefer(values, right) == (score, is_tie)


def test_metrics_divide_by_characters_bytes_and_what_is_likely_anyway():
    choices = ["é", "ab"]  # one character of two bytes, two of one
    found = preferences([-2.0, -3.0], choices, 1)
    assert {name: one.score for name, one in found.items()} == {
        "acc": 0,  # -2 and -3
        "acc_norm": 1,  # -2 and -1.5
        "acc_bytes": 0,  # -1 and -1.5
    }
    assert preferences([-2.0, -3.0, -2.0, -5.0], choices, 1)["acc_mutual_info"].score == 1


def test_length_rule_is_above_chance_beyond_its_interval():
    choices = [["a", "bbb"]] * 100
    right = [1] * 65 + [0] * 35
    found = length_rule(choices, right, 0.5)
    assert (found["choose"], found["accuracy"]) == ("longest", 0.65)
    assert found["interval95"][0] == pytest.approx(0.5525, abs=1e-4)
    assert length_rule(choices, [1] * 54 + [0] * 46, 0.5) is None
    assert length_rule(choices[:4], right[:4], 0.5) is None  # four items say nothing
    assert length_rule([["A", "B"]] * 50, [0] * 50, 0.5) is None
    assert math.isclose(length_rule(choices, [0] * 100, 0.5)["accuracy"], 1)
