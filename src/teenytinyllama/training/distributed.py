"""How the processes of a training hold the weights: whole in each, or in slices.

The recipe says what is trained; how the work is spread is the launcher's affair (`torchrun`, or
`accelerate launch` with a file of recipes/accelerate/), and the results are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import (
    fsdp2_prepare_model,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from teenytinyllama import hardware
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.training.optimizers import (
    build_optimizers,
    load_optimizer_tensors,
    local,
    optimizer_tensors,
    shard_like,
    step_if_finite,
)
from teenytinyllama.training.task import TrainSettings

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Contention(Protocol):
    """How long this process's threads waited for a core."""

    def waited_s(self) -> float:
        """Seconds so far, over all threads."""

    def record(self, passed_s: float, waited_s: float) -> None:
        """Add `waited_s` of `passed_s`; it may warn."""


class CpuSupport(Protocol):
    """What training on a CPU adds to a strategy (training/cpu)."""

    @property
    def compiled(self) -> bool:
        """Whether layers run compiled code, which changes the last bits of results."""

    @property
    def contention(self) -> Contention:
        """How long this process waited for its cores."""

    def steady_memory(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Inside, steps of `optimizer` reuse the memory that the step before freed."""


class DDPStrategy:
    """Every process holds everything: one process, or PyTorch's DistributedDataParallel.

    What the loop asks for; the other strategies differ in how they answer.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        loss: nn.Module,
        settings: TrainSettings,
        cpu_support: CpuSupport | None,
    ) -> None:
        self.device: torch.device = accelerator.device
        self._cpu_support = cpu_support  # None on a GPU
        self.compiled = cpu_support.compiled if cpu_support else settings.compile is not False
        self.contention = cpu_support.contention if cpu_support else None
        self.rank: int = accelerator.process_index
        self.is_main = self.rank == 0
        self.world: int = accelerator.num_processes
        model = loss.model
        assert isinstance(model, nn.Module)
        self.model = model
        self._accelerator = accelerator
        self._max_norm = settings.optimizer.max_grad_norm
        self.loss, self.optimizers = self._spread(loss, settings)

    def _spread(
        self, loss: nn.Module, settings: TrainSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        """What a micro-batch goes through, and the optimizers of its weights."""
        if self._compiles_modules:
            model: Any = self.model
            model.get_submodule(model.base_model_prefix).compile(dynamic=False)
        optimizers = _optimizers_of(self.model, settings)
        return self._accelerator.prepare_model(loss), optimizers

    @property
    def _compiles_modules(self) -> bool:
        """Never on a CPU: there, only kernels inside the layers are compiled."""
        return self.compiled and self.device.type == "cuda"

    def steady_memory(self) -> AbstractContextManager[None]:
        """Inside, steps on a CPU reuse freed memory; a GPU's allocator does so anyway."""
        if self._cpu_support is None:
            return nullcontext()
        return self._cpu_support.steady_memory(self.optimizers[-1])

    def wait(self) -> None:
        """Wait until every process is here."""
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
        return nullcontext() if is_last else self._accelerator.no_sync(self.loss)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the step."""
        torch.autograd.backward(loss)

    def norm(self) -> Tensor:
        """The norm of the step's gradients, a scalar."""
        return _norm_of([p.grad for p in self.model.parameters() if p.grad is not None])

    def step(self, norm: Tensor, found_inf: Tensor) -> None:
        """Update the weights unless `found_inf` (1.0 or 0.0) is 1, and drop the gradients.

        Gradients whose `norm` is above the recipe's `max_grad_norm` are scaled down to it.
        """
        step_if_finite(self.optimizers, found_inf, self._scale(norm))
        self.zero_grad()

    def _scale(self, norm: Tensor) -> Tensor | None:
        """What gradients are divided by; None where they stay as they are."""
        # A GPU divides by 1 sooner than the host could ask.
        if not self._max_norm or (norm.device.type == "cpu" and norm <= self._max_norm):
            return None
        return (norm.float() / self._max_norm).clamp_min(1)

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
        """Put back what `tensors` gave, to this or another strategy, to fewer or more processes."""
        if model is not None:
            load_weights(self.model, model)
        load_optimizer_tensors(self.model, self.optimizers, optimizer)


class FSDPStrategy(DDPStrategy):
    """PyTorch's FSDP2: a process keeps a slice of each weight, gradient and moment.

    The slices of a layer are put together while the layer works. The job's own model rests in
    host memory and is made whole for an evaluation, for samples and for a checkpoint, so all of
    these are the same as with one process.
    """

    @override
    def _spread(
        self, loss: nn.Module, settings: TrainSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        _refuse(settings, "FSDP2", ("adamw", "muon"))
        spread: nn.Module = fsdp2_prepare_model(self._accelerator, copy.deepcopy(loss))
        slices: Any = spread.model
        self._slices = slices
        if self._compiles_modules:
            for layer in slices.model.layers:
                # The forward alone: what gathers the slices stays outside of the graph.
                layer.forward = torch.compile(layer.forward, dynamic=False)
        self.model.to("cpu")
        return spread, _optimizers_of(self._slices, settings)

    @override
    def norm(self) -> Tensor:
        gradients = [p.grad for p in self._slices.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
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
                local(slices[name]).copy_(local(shard_like(weights, slices[name])))
        moments = {}
        for full_name, tensor in optimizer.items():
            parameter = slices[full_name.partition("/")[2]]
            is_whole = tensor.shape == parameter.shape
            moments[full_name] = shard_like(tensor, parameter) if is_whole else tensor
        load_optimizer_tensors(self._slices, self.optimizers, moments)


class DeepSpeedStrategy(DDPStrategy):
    """DeepSpeed's ZeRO, stage 2: weights whole, gradients and moments of AdamW in slices.

    DeepSpeed clips, skips what is not finite and steps; the host waits for it in every step.
    """

    @override
    def _spread(
        self, loss: nn.Module, settings: TrainSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        _refuse(settings, "DeepSpeed", ("adamw",))
        if settings.precision == "bf16":
            what = "DeepSpeed keeps weights in fp32 here"
            fix = '--set pretrain.precision="bf16-mixed"'
            raise UserError("precision-unsupported", 'precision = "bf16"', what, fix)
        try:
            import deepspeed
        except ImportError as error:
            raise missing_extra("deepspeed", "deepspeed") from error
        optimizers = _optimizers_of(self.model, settings)
        is_mixed = settings.precision == "bf16-mixed"
        self._deepspeed, self._zero, _, _ = deepspeed.initialize(
            model=loss,
            optimizer=optimizers[0],
            config={
                # The loop cuts and weighs a step; DeepSpeed is told which micro-batch is the last.
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "zero_optimization": {"stage": 2},
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": settings.optimizer.max_grad_norm,
                "torch_autocast": {"enabled": is_mixed, "dtype": "bfloat16"},
            },
        )
        for group in optimizers[0].param_groups:
            for flat in group["params"]:  # this process's slice of the group
                optimizers[0].state[flat] = {
                    "step": torch.zeros((), device=flat.device),
                    **{key: torch.zeros_like(flat) for key in _MOMENTS},
                }
        self._zero._lazy_init_hp_params_optimizer_state()
        return self._deepspeed, optimizers

    @override
    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        self._deepspeed.set_gradient_accumulation_boundary(is_last)
        yield

    @override
    def backward(self, loss: Tensor) -> None:
        self._deepspeed.backward(loss)

    @override
    def norm(self) -> Tensor:
        norm: Tensor = self._zero.scaled_global_norm()  # infinite where a gradient is not finite
        return norm

    @override
    def step(self, norm: Tensor, found_inf: Tensor) -> None:
        self._deepspeed.step()

    @override
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self.optimizers[0].state
        num_steps = next(iter(state.values()))["step"]
        model, optimizer = {}, {}
        for name, parameter in self.model.named_parameters():
            # Copies: DeepSpeed's weights are views of one long tensor.
            model[name] = parameter.detach().clone().cpu()
            optimizer[f"step/{name}"] = num_steps.clone().cpu()
            for key in _MOMENTS:
                optimizer[f"{key}/{name}"] = safe_get_full_optimizer_state(parameter, key).cpu()
        return model, optimizer

    @override
    @torch.no_grad()
    def load(self, model: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if model is not None:
            load_weights(self.model, model)
        for name, parameter in self.model.named_parameters():
            safe_set_full_fp32_param(parameter, parameter)
            for key in _MOMENTS:
                value = optimizer[f"{key}/{name}"].to(self.device)
                safe_set_full_optimizer_state(parameter, value, key)
        for state in self.optimizers[0].state.values():
            state["step"].copy_(optimizer[f"step/{name}"])


def _norm_of(gradients: list[Tensor]) -> Tensor:
    """The norm of all of them together, a scalar.

    PyTorch's own takes twice as long on a CPU, and its sums there are off in the fourth digit.
    """
    first = gradients[0]
    if first.device.type != "cpu" or first.dtype != torch.float32:
        return torch.nn.utils.get_total_norm(gradients, foreach=True)
    flat = (gradient.reshape(-1) for gradient in gradients)
    return torch.stack([torch.dot(gradient, gradient) for gradient in flat]).sum().sqrt()


def _optimizers_of(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    compute_dtype = hardware.compute_dtype(settings.precision)
    return build_optimizers(model, settings.optimizer, compute_dtype=compute_dtype)


def _refuse(settings: TrainSettings, strategy: str, kinds: tuple[str, ...]) -> None:
    """Raise UserError for an optimizer whose state cannot be cut into slices and put together."""
    if settings.optimizer.kind not in kinds:
        raise UserError(
            "optimizer-not-sharded",
            f'optimizer.kind = "{settings.optimizer.kind}"',
            f"does not work in slices ({strategy})",
            f'use "{kinds[-1]}", or start with recipes/accelerate/ddp.yaml',
        )


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved weights into a model. Tied ones are saved once, under the first name."""
    config: Any = model.config
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    model.load_state_dict(tensors, strict=not is_tied)
