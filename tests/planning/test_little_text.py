"""What much compute buys on little text: a law, and its ways to spend a budget."""

from __future__ import annotations

from itertools import pairwise

import pytest

from teenytinyllama.planning.little_text import (
    affordable_members,
    bits_per_byte,
    effective_mb,
    ways_to_train,
)
from teenytinyllama.planning.recipe_cost import needs_of
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe


def ways(**changes: float) -> list:
    given = {"parameters": 50e6, "text_mb": 200.0, "epochs": 16.0, "hours": 0.6, "usd": 0.9}
    return list(ways_to_train(**{**given, "hours_available": 30.0, **changes}))


@pytest.mark.parametrize(
    ("text_mb", "epochs", "parameters", "measured"),
    [  # bench/results/little_text.jsonl, and the pilot of EXPERIMENTS.md
        (0.25, 4, 0.53e6, 2.835),
        (0.25, 16, 0.53e6, 2.667),
        (1, 4, 0.53e6, 2.276),
        (4, 4, 1.3e6, 1.681),
    ],
)
def test_the_law_is_near_what_was_measured(
    text_mb: float, epochs: float, parameters: float, measured: float
) -> None:
    assert bits_per_byte(parameters, text_mb, epochs) == pytest.approx(measured, abs=0.1)


def test_epochs_are_worth_less_and_less() -> None:
    text = [effective_mb(1, epochs) for epochs in (1, 2, 4, 16, 64)]
    gains = [b - a for a, b in pairwise(text)]
    assert text[0] == 1 and text[1] == pytest.approx(1.9, abs=0.1)
    assert all(gain > 0 for gain in gains)
    # Slowrun: a plain model with 3.7 times the text's worth of one epoch; 2509.14786: 5.2 times.
    assert 3 < effective_mb(1, 16) < 6


def test_the_ways_cost_and_promise_more_one_after_the_other() -> None:
    four, many, student = ways()
    assert (four.epochs, four.members, four.worth) == (4, 0, 1)
    assert (many.hours, many.usd) == (0.6, 0.9)
    assert student.members == 8
    assert four.low > many.low > student.low > 0
    assert 1 < many.worth < student.worth < 3
    assert all(way.high - way.low > 0.3 for way in (four, many, student))
    assert [way.members for way in ways(hours_available=1.0)] == [0, 0]
    assert [way.epochs for way in ways(epochs=3.0, hours_available=0.6)] == [3]


def test_a_student_costs_what_its_recipe_costs() -> None:
    pretrain = PretrainSettings(ensemble={"members": 8})
    trainings = needs_of(Recipe(name="r", pretrain=pretrain)).trainings
    assert ways()[-1].hours == pytest.approx(0.6 * trainings)
    assert affordable_members(0.6 * trainings, 0.6) == 8
    assert affordable_members(0.6 * trainings * 0.99, 0.6) == 7


def test_a_script_of_three_bytes_a_character_has_fewer_bits_in_each() -> None:
    latin, bengali = ways(text_mb=100.0)[1], ways(text_mb=300.0, difficulty=1 / 3)[1]
    assert bengali.low < latin.low and bengali.high < latin.high / 2
