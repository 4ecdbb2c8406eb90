"""Optimizers (AdamW, and Muon for the hidden matrices) and the learning rate schedule.

A step whose gradient is not finite must change neither weights nor moments, and the host must not
wait for the device to find out. Every optimizer here therefore takes a flag on the device: 1 skips
the step. The learning rate is a pure function of the step: there is nothing to save or restore.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from teenytinyllama.errors import missing_extra
from teenytinyllama.settings.training import OptimizerSettings, ScheduleSettings

# Newton-Schulz coefficients of Jordan et al. (2024), as in torch.optim.Muon.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MUON_MOMENTUM = 0.95


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether this is a matrix inside a decoder layer, which Muon may orthogonalise."""
    return parameter.ndim == 2 and not is_outer(name)


def is_outer(name: str) -> bool:
    """Whether this is a weight of the embedding or of a head."""
    return any(part in name for part in ("embed_tokens", "lm_head", "score"))


def is_decayed(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices only (the paper's code decayed RMSNorm gains)."""
    return parameter.ndim >= 2


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly the nearest semi-orthogonal matrices: five Newton-Schulz steps on a stack (K, R, C).

    Singular values end between about 0.7 and 1.2, which is enough for Muon (Jordan et al., 2024).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with all matrices of one shape orthogonalised together.

    A 12-layer model has 84 hidden matrices: one by one they take 1,500 small kernels a step. The
    update is scaled to the size of AdamW's (`match_rms_adamw`: 0.2 * sqrt(max(rows, columns))), so
    that one learning rate serves both.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        compute_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.compute_dtype = compute_dtype
        self.found_inf: Tensor | None = None
        self.grad_scale: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update by the gradients divided by `grad_scale`; no change where `found_inf` is 1."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["weight_decay"])

    def _update(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        momenta = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momenta.append(local(state["momentum_buffer"]))
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        _divide(gradients, self.grad_scale)
        keep = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        if isinstance(keep, Tensor):
            # A gradient equal to the momentum leaves the momentum as it is.
            gradients = [
                torch.where(keep > 0, g, m) for g, m in zip(gradients, momenta, strict=True)
            ]
        torch._foreach_lerp_(momenta, gradients, 1 - MUON_MOMENTUM)
        nesterov = torch._foreach_lerp(gradients, momenta, MUON_MOMENTUM)
        # Orthogonalising needs whole matrices: each process gathers them and keeps its own shard.
        whole = [gather_like(m, p) for m, p in zip(nesterov, parameters, strict=True)]
        stack = orthogonalize(torch.stack(whole), self.compute_dtype)
        rate = lr * 0.2 * math.sqrt(max(parameters[0].shape))
        for parameter, update in zip(parameters, stack.unbind(), strict=True):
            weights, change = local(parameter), local(shard_like(update, parameter))
            weights.mul_(1 - lr * weight_decay * keep)
            weights.add_(change.to(weights.dtype) * (-rate * keep))


def local(tensor: Tensor) -> Tensor:
    """The shard that this process has of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_like(shard: Tensor, parameter: Tensor) -> Tensor:
    """The whole tensor of which each process has a `shard`, sharded like `parameter`."""
    if not isinstance(parameter, DTensor):
        return shard
    sharded = DTensor.from_local(
        shard,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    whole: Tensor = sharded.full_tensor()
    return whole


def shard_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Shard a tensor that every process has whole like `parameter`; nothing is communicated."""
    if not isinstance(parameter, DTensor):
        return whole
    mesh = parameter.device_mesh
    on_device = whole.detach().to(parameter.device)
    replicated = DTensor.from_local(on_device, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, parameter.placements)


def build_optimizers(
    model: nn.Module, settings: OptimizerSettings, *, compute_dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model: one, or two for `muon`, with weight decay on matrices only.

    Muon orthogonalises in `compute_dtype`.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    muon = [p for n, p in named if settings.kind == "muon" and is_hidden_matrix(n, p)]
    taken = {id(p) for p in muon}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    outer_decay = settings.embedding_weight_decay
    has_outer = outer_decay is not None
    decayed = [(n, p) for n, p in rest if is_decayed(p)]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for n, p in decayed if not (has_outer and is_outer(n))],
            "weight_decay": settings.weight_decay,
        },
        {
            "params": [p for n, p in decayed if has_outer and is_outer(n)],
            "weight_decay": outer_decay,
        },
        {"params": [p for _, p in rest if not is_decayed(p)], "weight_decay": 0.0},
    ]
    optimizers = [_first_order([g for g in groups if g["params"]], settings)]
    if muon:
        optimizers.append(
            Muon(
                muon,
                lr=settings.muon_learning_rate,
                weight_decay=settings.weight_decay,
                compute_dtype=compute_dtype,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_learning_rate"] = group["lr"]
            if settings.weight_decay_schedule == "learning-rate":
                group["peak_weight_decay"] = group["weight_decay"]
    return optimizers


def _first_order(
    groups: list[dict[str, Any]], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    lr, betas, eps = settings.peak_learning_rate, settings.betas, settings.epsilon
    if settings.kind == "adafactor":
        return torch.optim.Adafactor(groups, lr=lr)
    if settings.kind == "adamw-8bit":
        try:
            import bitsandbytes
        except ImportError as error:
            raise missing_extra("bitsandbytes", "bitsandbytes") from error
        eight_bit: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            groups, lr=lr, betas=betas, eps=eps
        )
        return eight_bit
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def learning_rate_factor(step: int, schedule: ScheduleSettings, num_steps: int) -> float:
    """Share of the peak rate at update number `step`, counting from 0.

    It rises linearly over `warmup_steps`; then `cosine` and `linear` fall to `final_fraction` over
    the remaining steps, and `wsd` stays at the peak and falls linearly over the last
    `decay_fraction` of the run. The last update still moves the weights: its rate is one step of
    the decay above the end.

    >>> plan = ScheduleSettings(kind="wsd", warmup_steps=2, decay_fraction=0.5)
    >>> [round(learning_rate_factor(step, plan, 10), 3) for step in (0, 1, 4, 5, 6, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.8, 0.2]
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    start = schedule.warmup_steps
    if schedule.kind == "wsd":
        start = max(start, num_steps - round(schedule.decay_fraction * num_steps))
    decay_steps = max(num_steps - start, 1)
    progress = max(0.0, (step - start) / decay_steps)
    share = 1 - progress
    if schedule.kind == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.final_fraction + (1 - schedule.final_fraction) * max(share, 0.0)


def set_learning_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate, and a decay that follows it, to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak_learning_rate"]
            if "peak_weight_decay" in group:
                group["weight_decay"] = factor * group["peak_weight_decay"]


def step_if_finite(
    optimizers: Iterable[torch.optim.Optimizer], found_inf: Tensor, scale: Tensor | None = None
) -> None:
    """Update the weights by the gradients divided by `scale`, unless `found_inf` is 1.0.

    Both are scalars on the device. AdamW and Muon read them there; for the other optimizers, which
    have no such argument, the host waits. AdamW divides while it reads the gradients anyway.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, Muon) or optimizer.defaults.get("fused"):
            optimizer.found_inf = found_inf  # type: ignore[attr-defined]
            optimizer.grad_scale = scale  # type: ignore[attr-defined]
            optimizer.step()
        elif not bool(found_inf):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            _divide([p.grad for p in parameters if p.grad is not None], scale)
            optimizer.step()


def _divide(gradients: list[Tensor], scale: Tensor | None) -> None:
    if scale is not None:
        torch._foreach_div_(gradients, scale)


def optimizer_tensors(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """The state of the optimizers as named tensors (`exp_avg/model.layers.0...`)."""
    names = {id(p): n for n, p in model.named_parameters()}
    tensors = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensor = value if isinstance(value, Tensor) else torch.tensor(value)
                # 8-bit AdamW: all weights share one table, and a file keeps shared memory once.
                is_shared = key.startswith("qmap")
                tensors[f"{key}/{names[id(parameter)]}"] = tensor.clone() if is_shared else tensor
    return tensors


def load_optimizer_tensors(
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    tensors: Mapping[str, Tensor],
) -> None:
    """Restore saved state. Raises KeyError where a tensor names no parameter of the model."""
    parameters = dict(model.named_parameters())
    owner = {
        id(p): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition("/")
        parameter = parameters[name]
        device = (
            torch.device("cpu") if key == "step" and not parameter.is_cuda else parameter.device
        )
        # torch counts steps in a float on the device, bitsandbytes in an int.
        is_plain = tensor.ndim == 0 and tensor.dtype == torch.int64
        value = int(tensor) if is_plain else tensor.to(device)
        owner[id(parameter)].state[parameter][key] = value
