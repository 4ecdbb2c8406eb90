"""Averages and copies of weights: their values, their place in a checkpoint, the choice."""

import pytest
import torch
from support.tiny_training import TinyTask, loop_of, settings, train
from torch import nn

from teenytinyllama.errors import Interrupted
from teenytinyllama.training import checkpoints
from teenytinyllama.training.averaging import WeightCopies, split_copies

PLAN = {"keep_best": True, "ema_decay": 0.8, "average_epochs": 2, "rows_per_epoch": 20}


class ScoredTask(TinyTask):
    """Held-out scores by the number of evaluations, `scores`; afterwards 9."""

    def __init__(self, scores=(), **changes):
        super().__init__(**changes)
        self.scores = list(scores)

    def score_heldout(self, model):
        return self.scores.pop(0) if self.scores else 9.0


class LossTask(TinyTask):
    """Held-out scores by the loss on its own rows: a function of the weights."""

    def score_heldout(self, model):
        batch = self.batches(0, 4)[0].load()
        ids, labels = (torch.from_numpy(rows) for rows in batch.values())
        return float(self.loss(ids, labels))


def copies_of(model, **changes):
    plan = {"ema_decay": 0.9, "keeps_best": True, "kept_steps": {2: "step-2", 3: "step-3"}}
    return WeightCopies(model, **{**plan, **changes})


def test_averages_have_the_right_values():
    model = nn.Linear(1, 1, bias=False)
    copies = copies_of(model, ema_decay=0.15)
    for step, value in enumerate((1.0, 3.0, 5.0), start=1):
        nn.init.constant_(model.weight, value)
        copies.update(step)
        if step == 1:
            copies.keep_best()
    found = {label: float(weights["weight"]) for label, weights in copies.candidates()}
    second = 0.15 * 1.0 + 0.85 * 3.0
    assert found == {
        "last step": 5.0,
        "average of 0.15 a step": pytest.approx(0.15 * second + 0.85 * 5.0),
        "average of the last 2 epochs": 4.0,
        "best evaluation": 1.0,
    }


def test_copies_go_into_a_checkpoint_and_come_back():
    model = nn.Linear(2, 2)
    before, after = copies_of(model), copies_of(model)
    for step in (1, 2, 3):
        nn.init.normal_(model.weight)
        before.update(step)
    moments = {"exp_avg/weight": torch.ones(1)}
    kept, found = split_copies({**moments, **before.tensors()})
    assert kept == moments
    after.load(found)
    for (_, a), (_, b) in zip(before.candidates(), after.candidates(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    after.load({})
    assert after.tensors() == {}


def stop_at(folder, num_steps, **plan):
    """Train to `num_steps` and stop as a signal would."""
    loop = loop_of(folder, task=LossTask(dropout=0.1), plan=settings(**plan))
    after_step = loop._after_step

    def stop_there():
        if loop.state.step == num_steps:
            loop.stop_signal = "SIGTERM"
        after_step()

    loop._after_step = stop_there
    with pytest.raises(Interrupted):
        loop.run()


def test_a_stopped_run_keeps_the_same_copies_and_chooses_the_same(tmp_path):
    whole = train(tmp_path / "whole", task=LossTask(dropout=0.1), **PLAN)
    for num_steps in (7, 18):  # between the ends of two epochs, and after the last but one
        stop_at(tmp_path / "cut", num_steps, **PLAN)
    cut = train(tmp_path / "cut", task=LossTask(dropout=0.1), **PLAN)
    names = [f"step-0000020/{name}" for name in ("model.safetensors", "optimizer.safetensors")]
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    pairs = zip(cut.task.model.parameters(), whole.task.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    # The copies are extra: what is trained is the same without them.
    train(tmp_path / "plain", task=LossTask(dropout=0.1))
    plain, copied = (checkpoints.load_newest(tmp_path / name) for name in ("plain", "whole"))
    assert all(torch.equal(copied.model[name], plain.model[name]) for name in plain.model)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        # evaluations after epochs 1 to 4, then: last step, ema, last 2 epochs, best evaluation
        ([3, 2, 4, 4, 4, 3, 3, 2], "best evaluation"),
        ([3, 2, 4, 4, 4, 1, 3, 2], "average of 0.8 a step"),
        ([3, 2, 4, 1, 1, 1, 1, 1], "last step"),
    ],
)
def test_the_weights_that_score_best_are_kept(tmp_path, scores, kept):
    task = ScoredTask(map(float, scores))
    metrics = loop_of(tmp_path, task=task, plan=settings(**PLAN)).run()
    assert metrics["kept_weights"] == kept
    assert list(metrics["heldout_bpb_of_weights"].values()) == scores[4:]
    final = checkpoints.load_newest(tmp_path)
    _, copies = split_copies(final.optimizer)
    labels = {"best evaluation": "best", "average of 0.8 a step": "ema"}
    name = "model.layers.0.mlp.up_proj.weight"
    expected = copies.get(f"weights-{labels.get(kept)}/{name}", final.model[name])
    assert torch.equal(task.model.get_parameter(name), expected)


def test_overfitting_is_said_once_and_may_end_the_training(tmp_path, capsys):
    plan = {"rows_per_epoch": 20, "overfitting_margin": 0.1}
    train(tmp_path / "on", task=ScoredTask([2.0, 2.5, 2.6, 2.7]), **plan)
    assert capsys.readouterr().err.count("overfitting at step 10: held-out 2.5000") == 1
    for _ in range(2):  # a second start finds it finished
        loop = train(
            tmp_path / "off", task=ScoredTask([2.0, 2.5]), stop_when_overfitting=True, **plan
        )
        assert loop.state.step == 10
    assert (tmp_path / "off" / "step-0000010").is_dir()
