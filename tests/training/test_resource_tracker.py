import os

import pytest
from support.ranks import in_ranks

from teenytinyllama.energy import Energy
from teenytinyllama.process_group import ProcessGroup
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
def tracker(clock):
    tracker = resource_tracker.ResourceTracker(Meter())
    tracker.begin(TrainState(), energy=Energy(), seconds=0.0)
    return tracker


def test_an_evaluation_does_not_lower_the_rate(clock, tracker):
    clock.now += 2.0
    with tracker.paused():
        clock.now += 100.0
    assert tracker.rate(TrainState(tokens=400)) == 200.0


def test_a_save_between_two_lines_does_not_raise_the_rate(clock, tracker):
    clock.now += 1.0
    with tracker.paused():
        clock.now += 5.0
    clock.now += 1.0
    assert tracker.rate(TrainState(tokens=400)) == 200.0
    clock.now += 4.0
    assert tracker.rate(TrainState(tokens=1000)) == 150.0
    assert tracker.best_tokens_per_s == 200.0


def test_earlier_sessions_and_pauses_count_as_time_used(clock, tracker):
    tracker.begin(TrainState(), energy=Energy(), seconds=30.0)
    clock.now += 1.0
    with tracker.paused():
        clock.now += 5.0
    state = TrainState()
    tracker.update(state)
    assert state.seconds == 36.0


def test_energy_is_that_of_all_machines():
    """Four ranks on two machines; each machine's first rank measures all of it."""

    class Rising:
        kwh = 0.0

        def read(self):
            self.kwh += 0.5
            return Energy(gpu_measured=self.kwh)

    def work(rank):
        os.environ["LOCAL_RANK"] = str(rank % 2)
        state = TrainState()
        tracker = resource_tracker.ResourceTracker(Rising(), ProcessGroup())
        tracker.begin(state, energy=Energy(gpu_measured=3.0), seconds=0.0)
        tracker.update(state)
        return state.energy.gpu_measured

    assert in_ranks(4, work) == [3.0 + 2 * 0.5] * 4
