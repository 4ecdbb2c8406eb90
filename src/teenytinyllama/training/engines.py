"""How the processes of a training hold the weights: whole in each, or in slices.

The recipe says what is trained; how the work is spread is the launcher's affair (`torchrun`, or
`accelerate launch` with a file of recipes/accelerate/), and the results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from teenytinyllama.training import hardware
from teenytinyllama.training.job import LoopSettings
from teenytinyllama.training.optimizer import (
    build_optimizers,
    load_optimizer_tensors,
    optimizer_tensors,
    step_if_finite,
)


class Engine:
    """Every process holds everything: one process, or PyTorch's DistributedDataParallel.

    What the loop asks for; the other engines differ in how they answer.
    """

    def __init__(
        self, accelerator: Accelerator, objective: nn.Module, settings: LoopSettings
    ) -> None:
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        model = objective.model
        assert isinstance(model, nn.Module)
        self.model = model
        self._accelerator = accelerator
        self.objective, self.optimizers = self._spread(objective, settings)

    def _spread(
        self, objective: nn.Module, settings: LoopSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        """What a micro-batch goes through, and the optimizers of its weights."""
        optimizers = build_optimizers(
            self.model,
            settings.optimizer,
            compute_dtype=hardware.compute_dtype(settings.precision),
        )
        return self._accelerator.prepare_model(objective), optimizers

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def main_first(self) -> AbstractContextManager[None]:
        """The other processes enter when the main one has left."""
        first: AbstractContextManager[None] = self._accelerator.main_process_first()
        return first

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        total: Tensor = self._accelerator.reduce(tensor, "sum")
        return total

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Round the two passes of a micro-batch: processes add up with the last of a step."""
        return nullcontext() if is_last else self._accelerator.no_sync(self.objective)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the step."""
        loss.backward()

    def clip(self, max_norm: float) -> Tensor:
        """Scale the step's gradients down to `max_norm`; returns the norm they had, a scalar."""
        norm: Tensor = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), max_norm, foreach=True
        )
        return norm

    def step(self, found_inf: Tensor) -> None:
        """Update the weights unless `found_inf` (1.0 or 0.0) is 1, and drop the gradients."""
        step_if_finite(self.optimizers, found_inf)
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def whole_model(self) -> Iterator[nn.Module]:
        """The job's model with all its weights as they are now. All processes must enter."""
        yield self.model

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights and moments, whole and by name. All processes must ask."""
        return self.model.state_dict(), optimizer_tensors(self.model, self.optimizers)

    def load(self, model: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, to this or another engine, to fewer or more processes."""
        if model is not None:
            load_weights(self.model, model)
        load_optimizer_tensors(self.model, self.optimizers, optimizer)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved weights into a model. Tied ones are saved once, under the first name."""
    config: Any = model.config
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    model.load_state_dict(tensors, strict=not is_tied)


def start_engine(objective: nn.Module, settings: LoopSettings) -> Engine:
    """Put the job on this process's device, in the way that the process was started for."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    device: torch.device = accelerator.device
    hardware.check_precision(settings.precision, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    if settings.precision == "bf16":
        objective.to(torch.bfloat16)
    objective.to(device)
    model: Any = objective.model
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective.train()
    if settings.compile or (settings.compile is None and device.type == "cuda"):
        model.get_submodule(model.base_model_prefix).compile(dynamic=False)
    return Engine(accelerator, objective, settings)
