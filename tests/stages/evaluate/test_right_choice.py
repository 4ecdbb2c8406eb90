"""A right answer that is a number is a text or a place, as all items of the task say."""

from __future__ import annotations

import pytest

from teenytinyllama.stages.evaluate.right_choice import (
    Readings,
    choice_texts,
    choose,
    kind_of_all,
    read_target,
)


@pytest.mark.parametrize(
    ("target", "choices", "expected"),
    [
        ("b", ["a", "b"], (1, None)),
        ("1", ["a", "b"], (None, 1)),
        ("1", ["1", "0"], (0, 1)),
        (1.0, ["a", "b"], (None, 1)),
        (0.5, ["0.5", "1"], (0, None)),
        ("2", ["a", "b"], (None, None)),
        (-1, ["a", "b"], (None, None)),
        (float("nan"), ["a", "b"], (None, None)),
        (True, ["a", "b"], (None, None)),
        ([0, 1], ["a", "b"], (None, None)),
        (None, ["a", "b"], (None, None)),
    ],
)
def test_both_readings(target, choices, expected):
    assert read_target(target, choices) == expected


def test_all_items_decide_together():
    text, place, both = Readings(0, None), Readings(None, 1), Readings(0, 1)
    assert kind_of_all([both, both]) == "text"
    assert kind_of_all([both, text]) == "text"
    assert kind_of_all([both, place]) == "index"
    assert kind_of_all([both, text, place]) is None
    assert kind_of_all([text, place]) is None  # nothing to decide
    assert [choose(both, kind) for kind in ("text", "index", None)] == [0, 1, 0]
    assert choose(text, "index") is None


def test_numbers_among_the_choices_become_text():
    assert choice_texts((1, "a")) == ["1", "a"]
    assert choice_texts([True, False]) == [True, False]
    assert choice_texts("abc") == "abc"
