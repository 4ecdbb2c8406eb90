"""How the processes of a run hold the weights: replicated (DDP) or sharded (FSDP2, DeepSpeed).

Losses, weights and checkpoints are the same in each, up to the order of additions; launch.py
decides which is used.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from teenytinyllama import hardware
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.modeling.causal_attention import attention_kernels
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.training.loss_scale import LossScale
from teenytinyllama.training.losses import CausalLoss
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


class CpuSupport(Protocol):
    """What training on a CPU adds to a strategy (training/cpu)."""

    @property
    def compiled(self) -> bool:
        """Whether layers run compiled code, which changes the last bits of results."""

    def steady_memory(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Inside, a step of `optimizer` reuses the memory that the step before it freed."""


class DDPStrategy:
    """One process, or PyTorch's DistributedDataParallel: every process holds everything.

    Its methods are all that the loop calls; the other strategies override some.
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
        self.rank: int = accelerator.process_index
        self.is_main = self.rank == 0
        self.world_size: int = accelerator.num_processes
        self.processes = ProcessGroup()
        model = loss.model
        assert isinstance(model, nn.Module)
        self.model = model
        self._accelerator = accelerator
        self._attention = settings.attention
        self.loss_scale = LossScale(self.device) if settings.precision == "fp16-mixed" else None
        self._max_norm = settings.optimizer.max_grad_norm
        if isinstance(loss, CausalLoss):
            loss.fuses_softmax = self._compiles_modules
        self.loss, self.optimizers = self._distribute(loss, settings)

    def _distribute(
        self, loss: nn.Module, settings: TrainSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        """The module that computes the loss, and the optimizers of its weights."""
        if self._compiles_modules and isinstance(loss, CausalLoss):
            loss.compile_layers()
        optimizers = _optimizers_of(self.model, settings, self.device)
        return self._accelerator.prepare_model(loss), optimizers

    @property
    def _compiles_modules(self) -> bool:
        """Never on a CPU: there, only kernels inside the layers are compiled."""
        return self.compiled and self.device.type == "cuda"

    @contextmanager
    def step_kernels(self) -> Iterator[None]:
        """Inside, for one step: the attention kernel asked for, and TF32 for fp32 products.

        Evaluations stay outside: their scores are those of the evaluate stage.
        """
        with attention_kernels(self.device, self._attention), hardware.tf32_products(self.device):
            yield

    def steady_memory(self) -> AbstractContextManager[None]:
        """Inside, steps on a CPU reuse freed memory; a GPU's allocator does so anyway."""
        if self._cpu_support is None:
            return nullcontext()
        return self._cpu_support.steady_memory(self.optimizers[-1])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        total: Tensor = self._accelerator.reduce(tensor, "sum")
        return total

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """For both passes of a micro-batch: gradients are summed over processes at the last one."""
        return nullcontext() if is_last else self._accelerator.no_sync(self.loss)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the step."""
        torch.autograd.backward(loss if self.loss_scale is None else loss * self.loss_scale.scale)

    def grad_norm(self) -> Tensor:
        """The norm of the step's gradients, a scalar on the device."""
        return self._unscaled(
            _total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        )

    def _unscaled(self, norm: Tensor) -> Tensor:
        return norm if self.loss_scale is None else norm / self.loss_scale.scale

    def step(self, norm: Tensor, found_inf: Tensor) -> None:
        """Update the weights unless `found_inf` is 1.0, and clear the gradients.

        Gradients whose `norm` is above the recipe's `max_grad_norm` are scaled down to it.
        """
        step_if_finite(self.optimizers, found_inf, self._scale(norm))
        if self.loss_scale is not None:
            self.loss_scale.update(found_inf)
        self.zero_grad()

    def _scale(self, norm: Tensor) -> Tensor | None:
        """The divisor of the gradients: clipping, and the loss scale of fp16; None for neither."""
        if self.loss_scale is not None:
            clip = (norm.float() / self._max_norm).clamp_min(1) if self._max_norm else 1.0
            return self.loss_scale.scale * clip
        # A GPU divides by 1 faster than the host could read the norm.
        if not self._max_norm or (norm.device.type == "cpu" and norm <= self._max_norm):
            return None
        return (norm.float() / self._max_norm).clamp_min(1)

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def release_memory(self) -> None:
        """Give what the training needed back to the GPU: the next stage asks how much is free."""
        self.zero_grad()
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    @contextmanager
    def whole_model(self) -> Iterator[nn.Module]:
        """The task's model with all its current weights. All processes must enter."""
        yield self.model

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """All weights and optimizer state by name, unsharded; empty but on the main process.

        All processes must call it.
        """
        if not self.is_main:
            return {}, {}
        return self.model.state_dict(), optimizer_tensors(self.model, self.optimizers)

    def load(self, model: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` of this or another strategy, on any number of processes, gave."""
        if model is not None:
            load_weights(self.model, model)
        load_optimizer_tensors(self.model, self.optimizers, optimizer)


class FSDPStrategy(DDPStrategy):
    """PyTorch's FSDP2: each process keeps a shard of every weight, gradient and moment.

    The shards of a layer are gathered while the layer runs. The task's own model stays in host
    memory and gets the current weights for an evaluation, samples or a checkpoint, all of which are
    the same as with one process.
    """

    @override
    def _distribute(
        self, loss: nn.Module, settings: TrainSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        _check_optimizer(settings, "FSDP2", ("adamw", "muon"))
        sharded: nn.Module = fsdp2_prepare_model(self._accelerator, copy.deepcopy(loss))
        sharded_model: Any = sharded.model
        self._sharded_model = sharded_model
        if self._compiles_modules:
            for layer in sharded_model.model.layers:
                # Only the forward pass: gathering the shards stays outside the graph.
                layer.forward = torch.compile(layer.forward, dynamic=False)
        self.model.to("cpu")
        return sharded, _optimizers_of(sharded_model, settings, self.device)

    @override
    def grad_norm(self) -> Tensor:
        gradients = [p.grad for p in self._sharded_model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        assert isinstance(norm, DTensor)
        return self._unscaled(norm.full_tensor())

    @override
    @contextmanager
    def whole_model(self) -> Iterator[nn.Module]:
        self._gather(everywhere=True)
        self.model.to(self.device)
        yield self.model
        self.model.to("cpu")

    @torch.no_grad()
    def _gather(self, *, everywhere: bool) -> None:
        whole = dict(self.model.named_parameters())
        for name, parameter in self._sharded_model.named_parameters():
            weights = parameter.full_tensor()
            if everywhere or self.is_main:
                whole[name].copy_(weights)

    @override
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self._gather(everywhere=False)
        moments = {}
        for name, tensor in optimizer_tensors(self._sharded_model, self.optimizers).items():
            # One at a time on the device; only the main process's host holds all of them.
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.is_main:
                moments[name] = whole.cpu()
        return (self.model.state_dict(), moments) if self.is_main else ({}, {})

    @override
    @torch.no_grad()
    def load(self, model: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor]) -> None:
        sharded: dict[str, Any] = dict(self._sharded_model.named_parameters())
        if model is not None:
            load_weights(self.model, model)
            for name, weights in self.model.named_parameters():
                local(sharded[name]).copy_(local(shard_like(weights, sharded[name])))
        moments = {}
        for full_name, tensor in optimizer.items():
            parameter = sharded[full_name.partition("/")[2]]
            is_whole = tensor.shape == parameter.shape
            moments[full_name] = shard_like(tensor, parameter) if is_whole else tensor
        load_optimizer_tensors(self._sharded_model, self.optimizers, moments)


class DeepSpeedStrategy(DDPStrategy):
    """DeepSpeed's ZeRO stage 2: weights replicated, gradients and moments of AdamW sharded.

    DeepSpeed itself clips, skips steps that are not finite and updates; the host waits for it in
    every step.
    """

    @override
    def _distribute(
        self, loss: nn.Module, settings: TrainSettings
    ) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        _check_optimizer(settings, "DeepSpeed", ("adamw",))
        if settings.precision == "fp16-mixed":
            what = "DeepSpeed trains in fp32 or bf16-mixed here"
            fix = '--set pretrain.precision="bf16-mixed", or start with recipes/accelerate/ddp.yaml'
            where = f'precision = "{settings.precision}"'
            raise UserError("precision-unsupported", where, what, fix)
        try:
            import deepspeed
        except ImportError as error:
            raise missing_extra("deepspeed", "deepspeed") from error
        optimizers = _optimizers_of(self.model, settings, self.device)
        is_mixed = settings.precision == "bf16-mixed"
        self._deepspeed, self._zero, _, _ = deepspeed.initialize(
            model=loss,
            optimizer=optimizers[0],
            config={
                # The loop cuts a step into micro-batches and tells DeepSpeed which is the last.
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "zero_optimization": {"stage": 2},
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": settings.optimizer.max_grad_norm,
                "torch_autocast": {"enabled": is_mixed, "dtype": "bfloat16"},
            },
        )
        for group in optimizers[0].param_groups:
            for flat in group["params"]:  # this process's shard of the group
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
    def grad_norm(self) -> Tensor:
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
            moments = {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
            if not self.is_main:
                continue
            # Copies: DeepSpeed's weights are views of one long tensor.
            model[name] = parameter.detach().clone().cpu()
            optimizer[f"step/{name}"] = num_steps.clone().cpu()
            optimizer |= {f"{key}/{name}": moments[key].cpu() for key in _MOMENTS}
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


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all gradients together, a scalar.

    PyTorch's own takes twice as long on a CPU, and its sums there are wrong in the fourth digit.
    """
    first = gradients[0]
    if first.device.type != "cpu" or first.dtype != torch.float32:
        return torch.nn.utils.get_total_norm(gradients, foreach=True)
    flat = (gradient.reshape(-1) for gradient in gradients)
    return torch.stack([torch.dot(gradient, gradient) for gradient in flat]).sum().sqrt()


def _optimizers_of(
    model: nn.Module, settings: TrainSettings, device: torch.device
) -> list[torch.optim.Optimizer]:
    compute_dtype = hardware.compute_dtype(settings.precision, device)
    return build_optimizers(model, settings.optimizer, compute_dtype=compute_dtype)


def _check_optimizer(settings: TrainSettings, strategy: str, kinds: tuple[str, ...]) -> None:
    """Raise UserError for an optimizer whose state cannot be sharded and gathered."""
    if settings.optimizer.kind not in kinds:
        raise UserError(
            "optimizer-not-sharded",
            f'optimizer.kind = "{settings.optimizer.kind}"',
            f"cannot be sharded by {strategy}",
            f'use "{kinds[-1]}", or start with recipes/accelerate/ddp.yaml',
        )


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load saved weights into a model; tied weights are saved once, under the first name."""
    config: Any = model.config
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    model.load_state_dict(tensors, strict=not is_tied)
