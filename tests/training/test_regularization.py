"""Dropout and stochastic depth: off outside of training, right on average, exact over resumes."""

import pytest
import torch
from support.tiny_training import TinyTask

from teenytinyllama.settings.pretraining import DropoutSettings
from teenytinyllama.training.cpu.kernels import choose_backend
from teenytinyllama.training.cpu.layers import use_cpu_layers
from teenytinyllama.training.regularization import add_dropout

KINDS = ("residual", "mlp", "embedding", "attention", "layers")


def loss_of(model_task, seed=None):
    ids, labels = (torch.from_numpy(a) for a in model_task.batches(0, 4)[0].load().values())
    if seed is not None:
        torch.manual_seed(seed)
    return model_task.loss(ids, labels)


@pytest.mark.parametrize("on_cpu_layers", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_drops_in_training_only_and_by_the_seed(kind, on_cpu_layers):
    plain = TinyTask()
    expected = float(loss_of(plain).detach())
    task = TinyTask()
    add_dropout(task.model, DropoutSettings(**{kind: 0.5}))
    if on_cpu_layers:
        use_cpu_layers(task.model, choose_backend(False, flops=0))
    task.model.train()
    first, again, other = (float(loss_of(task, seed).detach()) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    task.model.eval()
    assert float(loss_of(task).detach()) == pytest.approx(expected, rel=1e-5)
    assert task.model.config.attention_dropout == 0  # the saved model is a plain one


def test_skipped_layers_are_made_up_for_by_the_others():
    task = TinyTask()
    layer = task.model.model.layers[-1]
    add_dropout(task.model, DropoutSettings(layers=0.25))
    hook = next(iter(layer._forward_hooks.values()))
    before, after = torch.zeros(4000, 1, 1), torch.full((4000, 1, 1), 3.0)
    torch.manual_seed(0)
    found = hook(layer.train(), (before,), after)
    assert sorted(found.unique().tolist()) == [0.0, 4.0]  # 3 / (1 - 0.25)
    assert float(found.mean()) == pytest.approx(3.0, rel=0.05)
