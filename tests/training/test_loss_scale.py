import pytest
import torch
from support.graphs import HostSyncs
from support.tiny_training import TinyTask, loop_of, loss_log, settings, train

from teenytinyllama.training import checkpoints
from teenytinyllama.training.loss_scale import FIRST_SCALE, GROWTH_STEPS, LossScale

FINITE, INFINITE = torch.tensor(0.0), torch.tensor(1.0)


def test_it_halves_at_once_and_doubles_after_many_steps():
    scale = LossScale(torch.device("cpu"))
    scale.update(INFINITE)
    assert scale.to_json() == [FIRST_SCALE / 2, 0]
    for _ in range(GROWTH_STEPS):
        scale.update(FINITE)
    assert scale.to_json() == [FIRST_SCALE, 0]
    again = LossScale(torch.device("cpu"))
    again.load([8.0, 5.0])
    assert again.to_json() == [8.0, 5.0]
    for _ in range(9):
        again.update(INFINITE)
    assert again.to_json() == [1.0, 0]
    again.load([])
    assert again.to_json() == [1.0, 0]


def test_an_update_has_no_host_sync():
    scale = LossScale(torch.device("cpu"))
    with HostSyncs() as syncs:
        scale.update(INFINITE)
    assert syncs.lines == []


def test_fp16_trains_as_fp32_does_and_resumes_with_its_scale(tmp_path):
    plan = {"num_steps": 6}
    train(tmp_path / "fp32", **plan)
    loop = train(tmp_path / "fp16", precision="fp16-mixed", **plan)
    for one, other in zip(*(loss_log(tmp_path / n) for n in ("fp32", "fp16")), strict=True):
        # fp16 keeps 11 bits: losses and norms agree to about three digits.
        assert other[1:] == pytest.approx(one[1:], rel=1e-2)
    assert loop.strategy.loss_scale.to_json() == [FIRST_SCALE, 6]
    found = checkpoints.load_newest(tmp_path / "fp16")
    assert found.state["progress"]["loss_scale"] == [FIRST_SCALE, 6]
    again = loop_of(tmp_path / "fp16", plan=settings(precision="fp16-mixed", **plan))
    again.run()
    assert again.strategy.loss_scale.to_json() == [FIRST_SCALE, 6]


def test_an_overflow_changes_nothing_but_the_scale(tmp_path):
    task = TinyTask(poison={1: float("inf")})
    plan = settings(precision="fp16-mixed", num_steps=3, log_every_steps=1)
    loop = loop_of(tmp_path, task=task, plan=plan)
    loop.run()
    assert loop.state.num_skipped == 1
    assert loop.strategy.loss_scale.to_json() == [FIRST_SCALE / 2, 1]
