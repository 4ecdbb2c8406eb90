import json

import pytest
from support.tiny_training import settings

from teenytinyllama.errors import UserError
from teenytinyllama.training import checkpoints
from teenytinyllama.training.divergence_guard import DivergenceGuard, first_overfit
from teenytinyllama.training.metrics_logger import MetricsLogger
from teenytinyllama.training.train_state import TrainState

GOOD, BAD = [2.0, 1.0, 0.0], [2.0, float("nan"), 1.0]


def guard(folder):
    logger = MetricsLogger(folder, settings(), is_main=True)
    return DivergenceGuard(logger, lambda step: {"rows": [step]})


def test_bad_steps_are_counted_and_recorded_with_their_rows(tmp_path):
    state = TrainState(step=10)
    guard(tmp_path).count([GOOD, BAD, GOOD, BAD], state)
    assert (state.num_skipped, state.bad_in_a_row) == (2, 1)
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").open()]
    assert skipped == [{"step": 7, "rows": [7]}, {"step": 9, "rows": [9]}]


def test_three_bad_steps_in_a_row_roll_back_and_are_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "list_checkpoints", lambda folder: [(5, folder)])
    watch, state = guard(tmp_path), TrainState(step=10)
    watch.count([BAD, BAD], state)
    assert not watch.must_roll_back(state, tmp_path)
    state.step = 11
    watch.count([BAD], state)
    assert watch.must_roll_back(state, tmp_path)
    assert watch.skip_steps == {8, 9, 10}
    assert "the weights are diverging" in capsys.readouterr().err
    state.bad_in_a_row = 0
    watch.count([BAD], state)  # a step that is skipped on purpose
    assert state.bad_in_a_row == 0


@pytest.mark.parametrize(("rollbacks", "what"), [(3, "after 3 rollbacks"), (0, "no checkpoint")])
def test_gives_up_without_a_checkpoint_or_after_three_rollbacks(tmp_path, rollbacks, what):
    state = TrainState(step=3, bad_in_a_row=3, rollbacks=rollbacks)
    with pytest.raises(UserError, match=what) as caught:
        guard(tmp_path).must_roll_back(state, tmp_path)
    assert caught.value.code == "training-diverged"


def test_a_loss_is_compared_with_the_best_before_it():
    assert first_overfit([], 0.02) is None
    assert first_overfit([2.0, 1.0, 1.02], 0.02) is None  # exactly at the margin
    assert first_overfit([2.0, 1.0, 1.021, 3.0], 0.02) == 2
