"""What only a CPU needs to train fast. launch.py calls `prepare`; nothing else uses it.

layers.py, attention.py   forward passes that keep less for the backward pass
kernels.py                what they compute between products: blocked or compiled
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from teenytinyllama import hardware
from teenytinyllama.training.cpu import kernels
from teenytinyllama.training.cpu.layers import use_cpu_layers
from teenytinyllama.training.task import TrainSettings, TrainTask

CPU = torch.device("cpu")


@dataclass(frozen=True)
class PreparedCpu:
    """What a strategy carries where it trains on a CPU."""

    compiled: bool
    """Whether layers run compiled code, which changes the last bits of results."""

    @contextmanager
    def steady_memory(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Inside, a step reuses the memory that the step before it freed.

        What is allocated until the first update of `optimizer` mostly stays (weights, moments): it
        is mapped apart from the memory of later steps, where it would leave gaps.
        """
        with ExitStack() as stack:
            stack.enter_context(hardware.large_blocks_apart(CPU))
            # Cached: entered once, by the first update.
            keep_freed = cache(lambda: stack.enter_context(hardware.keeping_freed_memory(CPU)))
            hook = optimizer.register_step_post_hook(lambda *_: keep_freed())
            stack.callback(hook.remove)
            yield


def prepare(task: TrainTask, settings: TrainSettings) -> PreparedCpu:
    """Give the task's model forward passes that are fast on a CPU, in place; results are the same.

    Raises UserError where `settings.compile` asks for what this machine cannot compile.
    """
    backend = kernels.choose_backend(settings.compile, flops=task.flops(settings.num_steps))
    use_cpu_layers(task.model, backend)
    return PreparedCpu(compiled=backend.compiled)
