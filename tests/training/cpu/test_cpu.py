from __future__ import annotations

import pytest
import torch
from support.tiny_training import TinyTask, settings

from teenytinyllama import hardware
from teenytinyllama.training import cpu


def test_prepare_replaces_layers() -> None:
    task = TinyTask()
    support = cpu.prepare(task, settings())
    assert not support.compiled
    assert "forward" in vars(task.model.model.layers[0].mlp)


def test_freed_memory_is_kept_from_the_first_update_on(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    def context(name: str):
        def enter(device: torch.device):
            entered.append(name)
            return torch.no_grad()

        return enter

    for name in ("large_blocks_apart", "keeping_freed_memory"):
        monkeypatch.setattr(hardware, name, context(name))
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    support = cpu.PreparedCpu(compiled=False)
    with support.steady_memory(optimizer):
        assert entered == ["large_blocks_apart"]
        for _ in range(2):
            optimizer.step()
            assert entered == ["large_blocks_apart", "keeping_freed_memory"]
    optimizer.step()
    assert len(entered) == 2
