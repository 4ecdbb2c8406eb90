"""What only a CPU needs to train fast. `start_strategy` calls `prepare`; nothing else enters.

layers.py, attention.py   forward passes that keep less for the backward pass
kernels.py                what they compute between products: blocked or compiled
packed_attention.py       rows that hold several texts
contention.py             other programs on the same cores
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from transformers import PreTrainedModel

from teenytinyllama import hardware
from teenytinyllama.training.cpu import kernels
from teenytinyllama.training.cpu.contention import ContentionMonitor
from teenytinyllama.training.cpu.layers import use_cpu_layers
from teenytinyllama.training.cpu.packed_attention import isolate_texts
from teenytinyllama.training.task import TrainSettings

CPU = torch.device("cpu")


@dataclass(frozen=True)
class CpuSupport:
    """What a strategy carries where it trains on a CPU."""

    compiled: bool
    """Whether layers run compiled code, which changes the last bits of results."""
    contention: ContentionMonitor

    @contextmanager
    def steady_memory(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Inside, steps of `optimizer` reuse the memory that the step before freed.

        What is allocated until the first update stays, moments above all: it lies apart from what
        later steps allocate and free, so that it leaves no gaps there.
        """
        with ExitStack() as stack:
            stack.enter_context(hardware.large_blocks_apart(CPU))
            keep_freed = cache(
                lambda: stack.enter_context(hardware.keeping_freed_memory(CPU))
            )  # once
            hook = optimizer.register_step_post_hook(lambda *_: keep_freed())
            stack.callback(hook.remove)
            yield


def prepare(
    model: PreTrainedModel, settings: TrainSettings, *, flops: float, isolates_texts: bool
) -> CpuSupport:
    """Give `model` forward passes that are fast on a CPU, in place; the results are the same.

    `flops` of the whole run decide whether compiling pays. With `isolates_texts`, rows hold several
    texts. Raises UserError where `settings.compile` asks for what this machine cannot compile.
    """
    backend = kernels.choose_backend(settings.compile, flops=flops)
    use_cpu_layers(model, backend)
    if isolates_texts:
        isolate_texts(model)
    return CpuSupport(compiled=backend.compiled, contention=ContentionMonitor())
