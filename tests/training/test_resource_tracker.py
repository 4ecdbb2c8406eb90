"""Rates of a training, by a clock that the test turns."""

import pytest

from teenytinyllama.energy import Energy
from teenytinyllama.training import resource_tracker
from teenytinyllama.training.train_state import TrainState


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


class Meter:
    def read(self):
        return Energy()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(resource_tracker, "time", clock)
    return clock


@pytest.fixture
def spent(clock):
    spent = resource_tracker.ResourceTracker(Meter(), None)
    spent.begin(TrainState(), energy=Energy(), seconds=0.0)
    return spent


def test_an_evaluation_before_the_line_does_not_slow_the_rate(clock, spent):
    clock.now += 2.0
    with spent.paused():
        clock.now += 100.0
    assert spent.rate(TrainState(tokens=400)) == 200.0


def test_a_save_between_two_lines_does_not_quicken_it(clock, spent):
    clock.now += 1.0
    with spent.paused():
        clock.now += 5.0
    clock.now += 1.0
    assert spent.rate(TrainState(tokens=400)) == 200.0
    clock.now += 4.0
    assert spent.rate(TrainState(tokens=1000)) == 150.0
    assert spent.best_tokens_per_s == 200.0


def test_seconds_of_earlier_sessions_and_of_pauses_count_as_time_spent(clock, spent):
    spent.begin(TrainState(), energy=Energy(), seconds=30.0)
    clock.now += 1.0
    with spent.paused():
        clock.now += 5.0
    state = TrainState()
    spent.update(state)
    assert state.seconds == 36.0
