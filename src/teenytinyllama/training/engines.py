"""How the processes of a training hold the weights: whole in each, or in slices.

The recipe says what is trained; how the work is spread is the launcher's affair (`torchrun`, or
`accelerate launch` with a file of recipes/accelerate/), and the results are the same.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    fsdp2_prepare_model,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from teenytinyllama.errors import UserError
from teenytinyllama.training import hardware
from teenytinyllama.training.job import LoopSettings
from teenytinyllama.training.optimizer import (
    build_optimizers,
    load_optimizer_tensors,
    local,
    optimizer_tensors,
    slice_like,
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
        if _compiles(settings, self.device):
            model: Any = self.model
            model.get_submodule(model.base_model_prefix).compile(dynamic=False)
        optimizers = _optimizers_of(self.model, settings)
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
        torch.autograd.backward(loss)

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


class Sharded(Engine):
    """PyTorch's FSDP2: a process keeps a slice of each weight, gradient and moment.

    The slices of a layer are put together while the layer works. The job's own model rests in
    host memory and is made whole for an evaluation, for samples and for a checkpoint, so all of
    these are the same as with one process.
    """

    @override
    def _spread(
        self, objective: nn.Module, settings: LoopSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        _refuse(settings, "FSDP2", ("adamw", "muon"))
        spread: nn.Module = fsdp2_prepare_model(self._accelerator, copy.deepcopy(objective))
        slices: Any = spread.model
        self._slices = slices
        if _compiles(settings, self.device):
            for layer in slices.model.layers:
                # The forward alone: what gathers the slices stays outside of the graph.
                layer.forward = torch.compile(layer.forward, dynamic=False)
        self.model.to("cpu")
        return spread, _optimizers_of(self._slices, settings)

    @override
    def clip(self, max_norm: float) -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(self._slices.parameters(), max_norm, foreach=True)
        assert isinstance(norm, DTensor)
        whole: Tensor = norm.full_tensor()
        return whole

    @override
    @contextmanager
    def whole_model(self) -> Iterator[nn.Module]:
        self._gather()
        self.model.to(self.device)
        yield self.model
        self.model.to("cpu")

    @torch.no_grad()
    def _gather(self) -> None:
        whole = dict(self.model.named_parameters())
        for name, parameter in self._slices.named_parameters():
            whole[name].copy_(parameter.full_tensor())

    @override
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self._gather()
        moments = optimizer_tensors(self._slices, self.optimizers)
        for name, tensor in moments.items():
            moments[name] = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        return self.model.state_dict(), moments

    @override
    @torch.no_grad()
    def load(self, model: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor]) -> None:
        slices: dict[str, Any] = dict(self._slices.named_parameters())
        if model is not None:
            load_weights(self.model, model)
            for name, weights in self.model.named_parameters():
                local(slices[name]).copy_(local(slice_like(weights, slices[name])))
        moments = {}
        for full_name, tensor in optimizer.items():
            parameter = slices[full_name.partition("/")[2]]
            is_whole = tensor.shape == parameter.shape
            moments[full_name] = slice_like(tensor, parameter) if is_whole else tensor
        load_optimizer_tensors(self._slices, self.optimizers, moments)


def _compiles(settings: LoopSettings, device: torch.device) -> bool:
    return device.type == "cuda" if settings.compile is None else settings.compile


def _optimizers_of(model: nn.Module, settings: LoopSettings) -> list[torch.optim.Optimizer]:
    compute_dtype = hardware.compute_dtype(settings.precision)
    return build_optimizers(model, settings.optimizer, compute_dtype=compute_dtype)


def _refuse(settings: LoopSettings, engine: str, kinds: tuple[str, ...]) -> None:
    """Raise UserError for an optimizer whose state cannot be cut into slices and put together."""
    if settings.optimizer.kind not in kinds:
        raise UserError(
            "optimizer-not-sharded",
            f'optimizer.kind = "{settings.optimizer.kind}"',
            f"does not work in slices ({engine})",
            f'use "{kinds[-1]}", or start with recipes/accelerate/ddp.yaml',
        )


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
    engine = Sharded if _is_fsdp(accelerator) else Engine
    return engine(accelerator, objective, settings)


def _is_fsdp(accelerator: Accelerator) -> bool:
    """Whether the launcher asked for FSDP, and there is more than one process to share."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if not asked or accelerator.num_processes == 1:
        return False
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate 1.15 offers FSDP on GPUs alone; PyTorch's runs on CPUs, and is tested there.
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        state.distributed_type = DistributedType.FSDP
    if state.fsdp_plugin.fsdp_version != 2:
        raise UserError(
            "fsdp-version",
            "the launcher's fsdp_version",
            f"is {state.fsdp_plugin.fsdp_version}, only 2 works here",
            "--config_file recipes/accelerate/fsdp2.yaml",
        )
    return True
