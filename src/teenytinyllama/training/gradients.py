"""The gradient of one step, from its micro-batches: the same however the step was cut.

The loss of a micro-batch is a sum; it is divided by the targets of the whole step. So eight rows
at once, eight times one row, and four rows in each of two processes are one gradient, up to the
order of additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from teenytinyllama import hardware
from teenytinyllama.errors import UserError
from teenytinyllama.training.distributed import DDPStrategy
from teenytinyllama.training.task import MicroBatch, TrainSettings


def step_gradients(
    strategy: DDPStrategy, settings: TrainSettings, step: int, batches: Sequence[MicroBatch]
) -> Tensor:
    """Leave the gradients of a step's mean loss; return this process's part of it, on the device.

    With two shards, one process sums the even and the odd micro-batches apart and then the two
    sums: the very additions that two processes make.
    """
    total = sum(batch.weight for batch in batches)
    mine = _mine(batches, strategy)
    shards = settings.gradient_shards if strategy.world == 1 else 1
    if shards == 1:
        return _accumulate(strategy, settings, step, mine, total)
    loss = _accumulate(strategy, settings, step, mine[0::shards], total)
    first = {p: p.grad for p in strategy.model.parameters() if p.grad is not None}
    for parameter in first:
        parameter.grad = None
    loss = loss + _accumulate(strategy, settings, step, mine[1::shards], total)
    for parameter, gradient in first.items():
        assert parameter.grad is not None
        parameter.grad.add_(gradient)
    return loss


def _mine(batches: Sequence[MicroBatch], strategy: DDPStrategy) -> Sequence[tuple[int, MicroBatch]]:
    """Micro-batches of this process, with their number in the step."""
    if len(batches) % strategy.world:
        raise UserError(
            "world-size",
            f"{strategy.world} processes",
            f"do not divide the {len(batches)} micro-batches of a step",
            "set micro_batch so that every process gets as many",
        )
    return list(enumerate(batches))[strategy.rank :: strategy.world]


def _accumulate(
    strategy: DDPStrategy,
    settings: TrainSettings,
    step: int,
    batches: Sequence[tuple[int, MicroBatch]],
    total: float,
) -> Tensor:
    loss = torch.zeros((), device=strategy.device)
    for place, (index, batch) in enumerate(batches):
        torch.manual_seed(_mix_seed(settings.seed, step, index))
        tensors = {name: _to_device(rows, strategy.device) for name, rows in batch.load().items()}
        # Said before the forward pass: said after it, replicas drift apart (facts.md).
        with strategy.accumulating(is_last=place == len(batches) - 1):
            with hardware.autocast(settings.precision, strategy.device):
                part = strategy.objective(**tensors) / total
            # Processes average their gradients; the mean above is already over all of them.
            strategy.backward(part * strategy.world if strategy.world > 1 else part)
        loss += part.detach()
    return loss


def _to_device(rows: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _mix_seed(seed: int, step: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)[0] >> 1)
