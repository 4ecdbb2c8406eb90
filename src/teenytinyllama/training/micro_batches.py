"""How a step is cut into micro-batches, and how their gradients become the step's.

The loss of a micro-batch is a sum; it is divided by the weight of the whole step. So eight rows
at once, eight times one row, and four rows in each of two processes give one gradient, up to the
order of additions: the size of a micro-batch changes speed and memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from teenytinyllama import hardware
from teenytinyllama.errors import UserError
from teenytinyllama.training.distributed import DDPStrategy
from teenytinyllama.training.task import MicroBatch, TrainSettings, TrainTask

MAX_TOKENS_CPU = 2_048
MAX_TOKENS_GPU = 65_536
FIRST_WAIT = 200  # steps until a micro-batch that did not fit is tried again


def step_gradients(
    strategy: DDPStrategy,
    settings: TrainSettings,
    step: int,
    batches: Sequence[MicroBatch],
    load: Callable[[MicroBatch], Mapping[str, NDArray[Any]]],
) -> Tensor:
    """Accumulate the gradients of a step's mean loss.

    Returns the part of that loss that this process computed, a scalar on the device. With two
    `gradient_shards`, one process sums the even and the odd micro-batches separately and then adds
    the two: the same additions, bit for bit, as two processes make.
    """
    weight = sum(batch.weight for batch in batches)
    mine = _of_this_process(batches, strategy)
    shards = settings.gradient_shards if strategy.world_size == 1 else 1
    if shards == 1:
        return _accumulate(strategy, settings, step, mine, weight, load)
    loss = _accumulate(strategy, settings, step, mine[0::shards], weight, load)
    first = {p: p.grad for p in strategy.model.parameters() if p.grad is not None}
    for parameter in first:
        parameter.grad = None
    loss = loss + _accumulate(strategy, settings, step, mine[1::shards], weight, load)
    for parameter, gradient in first.items():
        assert parameter.grad is not None
        parameter.grad.add_(gradient)
    return loss


def _of_this_process(
    batches: Sequence[MicroBatch], strategy: DDPStrategy
) -> Sequence[tuple[int, MicroBatch]]:
    """Micro-batches of this process, with their number in the step."""
    return list(enumerate(batches))[strategy.rank :: strategy.world_size]


def _accumulate(
    strategy: DDPStrategy,
    settings: TrainSettings,
    step: int,
    batches: Sequence[tuple[int, MicroBatch]],
    weight: float,
    load: Callable[[MicroBatch], Mapping[str, NDArray[Any]]],
) -> Tensor:
    loss = torch.zeros((), device=strategy.device)
    for place, (index, batch) in enumerate(batches):
        torch.manual_seed(_mix_seed(settings.seed, step, index))  # dropout
        tensors = {name: _to_device(rows, strategy.device) for name, rows in load(batch).items()}
        # Set before the forward pass: set after it, replicas drift apart.
        with strategy.accumulating(is_last=place == len(batches) - 1):
            with hardware.autocast(settings.precision, strategy.device):
                part = strategy.loss(**tensors) / weight
            if batch.is_filler:
                part = 0 * part
            # Processes average their gradients; the mean above is already over all of them.
            strategy.backward(part * strategy.world_size if strategy.world_size > 1 else part)
        loss += part.detach()
    return loss


def _to_device(rows: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _mix_seed(seed: int, step: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)[0] >> 1)


def first_micro_batch(task: TrainTask, strategy: DDPStrategy, settings: TrainSettings) -> int:
    """Rows of one forward pass: as many as asked for, else the most that are likely to fit.

    All processes get the same, that of the one with least memory: each takes every n-th
    micro-batch, and rows would be read twice or never. Raises UserError where the processes cannot
    share the rows of a step.
    """
    world, step_rows = strategy.world_size, task.order.rows_per_step
    rows = step_rows // world
    if rows * world != step_rows or rows == 0:
        raise UserError(
            "world-size",
            f"{world} processes",
            f"do not divide the {step_rows} rows of a step",
            f"start a divisor of {step_rows} processes, or change tokens_per_step",
        )
    wanted = settings.micro_batch or _fitting_micro_batch(task, strategy, rows)
    return min(strategy.processes.gather(min(wanted, rows)))


def _fitting_micro_batch(task: TrainTask, strategy: DDPStrategy, rows: int) -> int:
    """The largest divisor of a process's rows of a step that is likely to fit into its memory."""
    max_tokens = MAX_TOKENS_CPU
    if strategy.device.type == "cuda":
        config = task.model.config
        layer = 28 * config.hidden_size + 8 * config.intermediate_size
        bytes_per_token = max(1, layer * config.num_hidden_layers)
        free, _ = torch.cuda.mem_get_info(strategy.device)
        max_tokens = min(int(0.6 * free) // bytes_per_token, MAX_TOKENS_GPU)
    fitting = [n for n in _divisors(rows) if n * task.tokens_per_row <= max_tokens]
    return max(fitting, default=1)


def smaller_micro_batch(task: TrainTask, num_rows: int, world: int) -> int:
    """The next smaller divisor of the step, after `num_rows` rows ran out of memory.

    Raises UserError below 1, and with several processes: one alone cannot retry, the others would
    wait for it forever.
    """
    where = f"micro_batch = {num_rows} x {task.tokens_per_row} tokens"
    if num_rows == 1:
        fix = "a shorter sequence_length, or a smaller model"
        if not task.model.is_gradient_checkpointing:
            fix = "--set pretrain.activation_checkpointing=true, or a shorter sequence_length"
        raise UserError("out-of-memory", where, "does not fit on the device", fix)
    smaller = max(n for n in _divisors(task.order.rows_per_step // world) if n < num_rows)
    if world > 1:
        fix = f"--set pretrain.micro_batch={smaller} (all processes need the same size)"
        raise UserError("out-of-memory", where, "does not fit on a device", fix)
    return smaller


@dataclass
class Shortage:
    """A micro-batch that ran out of memory, and when it is tried again.

    Another program may have taken the memory for a while. Each time that it still does not fit, the
    next attempt is twice as far away.
    """

    rows: int = 0
    retry_at: int = 0
    wait: int = FIRST_WAIT

    def halved(self, rows: int, step: int) -> None:
        """`rows` rows did not fit at `step`."""
        self.wait *= 2 if rows == self.rows else 1
        self.rows, self.retry_at = max(rows, self.rows), step + self.wait

    def rows_now(self, rows: int, step: int) -> int:
        """Rows of a micro-batch at `step`: the larger ones again once they are due."""
        return self.rows if self.rows > rows and step >= self.retry_at else rows


def recompute_activations(model: Any) -> bool:
    """Keep less for the backward pass, at a third of the speed; False where it does so already."""
    if model.is_gradient_checkpointing:
        return False
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return True


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
