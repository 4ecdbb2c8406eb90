"""Kernels for a CPU: what a layer computes between its matrix products, row by row.

Each kernel is written once and runs on one of two backends. `BLOCKED` applies PyTorch's operators
to blocks of rows that stay in the CPU's cache. `COMPILED` lets `torch.compile` write one loop in
C++ for a whole kernel, two to ten times faster; it needs a C++ compiler and a few seconds at the
start.
"""

# N rows, H hidden, F intermediate width, I in, O out
# B rows, T tokens, Q query heads, K key-value heads, D head size

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor
from torch.nn import functional

from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1024 * 1024
WORTH_COMPILING_FLOPS = 2e14
WORTH_TRANSPOSING = 1.5e9  # multiplications of a product

Kernel = Callable[..., None]
"""Takes tensors of N rows each, then others; writes into some of them."""


@dataclass(frozen=True)
class KernelBackend:
    """How kernels run: compiled, once for each shape, or on about `BLOCK_BYTES` at a time."""

    compiled: bool

    def __call__(self, kernel: Kernel, rows: Sequence[Tensor], *others: Any) -> None:
        """Run `kernel` on tensors with as many `rows` each; `others` are passed on whole."""
        if self.compiled:
            _compile(kernel)(*rows, *others)
            return
        size = max(1, rows[0].numel() // max(1, len(rows[0])))
        step = max(1, BLOCK_BYTES // (4 * size))
        for start in range(0, len(rows[0]), step):
            kernel(*(tensor[start : start + step] for tensor in rows), *others)


BLOCKED, COMPILED = KernelBackend(compiled=False), KernelBackend(compiled=True)


def choose_backend(compile_setting: bool | None, *, flops: float) -> KernelBackend:
    """The backend for a training run of `flops` in total.

    With no `compile_setting`, kernels are compiled where that saves more seconds than it costs (at
    0.3 to 0.6 TFLOP/s on two cores) and there is a compiler. Raises UserError where the setting
    asks for compiled kernels and nothing compiles.
    """
    if compile_setting is False or (compile_setting is None and flops < WORTH_COMPILING_FLOPS):
        return BLOCKED
    logger.info("compiling the layers: some seconds")
    reason = _why_nothing_compiles()
    if reason is None:
        # PyTorch compiles a function for eight shapes at most: forget those of earlier runs.
        torch.compiler.reset()
        return COMPILED
    if compile_setting:
        fix = "apt install g++ python3-dev, or --set pretrain.compile=false"
        raise UserError("no-compiler", "compile = true", reason, fix)
    logger.info(f"layers are not compiled, which costs about a tenth of the speed: {reason}")
    return BLOCKED


def find_compiler() -> str | None:
    """Path of the C++ compiler that `torch.compile` would use; None if there is none."""
    names = (name for name in torch._inductor.config.cpp.cxx if name)
    return next(filter(None, map(shutil.which, names)), None)


@cache
def _why_nothing_compiles() -> str | None:
    if find_compiler() is None:
        return "no C++ compiler"
    try:  # Python's headers or OpenMP may be missing; an error in our kernels must not look like it
        torch.compile(torch.neg, dynamic=False)(torch.ones(8))
    except RuntimeError as error:  # PyTorch's, whatever was missing
        return str(error).strip().splitlines()[0]
    return None


@cache
def _compile(kernel: Kernel) -> Kernel:
    return torch.compile(kernel, dynamic=False, fullgraph=True)


def rms_norm(inputs: Tensor, out: Tensor, scale: Tensor, weight: Tensor, epsilon: float) -> None:
    """RMSNorm (Zhang and Sennrich, 2019) of `inputs` (N, H) into `out` (N, H).

    `scale` (N, 1), fp32, becomes the factor of each row, for the backward pass.
    """
    wide = inputs.float()
    scale.copy_(torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon))
    out.copy_(wide * scale * weight)


def rms_norm_backward(
    inputs: Tensor,
    scale: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
) -> None:
    """`grad_output` (N, H) to `grad_input` (N, H); adds to `grad_weight` (H)."""
    normed = inputs.float() * scale
    wide = grad_output.float()
    grad_weight += (wide * normed).sum(0)
    wide = wide * weight
    projection = (wide * normed).mean(-1, keepdim=True)
    grad_input.copy_((wide - normed * projection) * scale)


def swiglu(gate: Tensor, up: Tensor, out: Tensor) -> None:
    """SwiGLU (Shazeer, 2020): `silu(gate) * up`, all (N, F), into `out`."""
    torch.mul(functional.silu(gate), up, out=out)


def swiglu_backward(
    grad_output: Tensor, gate: Tensor, up: Tensor, out: Tensor, grad_gate: Tensor, grad_up: Tensor
) -> None:
    """Gradients into `grad_gate` and `grad_up` (N, F), and the output again into `out`."""
    activated = functional.silu(gate)
    torch.mul(activated, up, out=out)
    torch.mul(grad_output, activated, out=grad_up)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad_output * up, gate))


def rope(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary position embedding (Su et al., 2021), in place.

    `heads` (B, T, any, D), `cos` and `sin` (B, T, 1, D / 2).
    """
    heads.copy_(_rotate(heads, cos, sin))


def rope_backward(
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    cos: Tensor,
    sin: Tensor,
    grad_heads: Tensor,
) -> None:
    """Gradients of attention (B, Q, T, D) into `grad_heads` (B, T, Q + 2 K, D), rotated back.

    Keys and values come once for each query head: gradients of those that share one are added.
    """
    num_query_heads = grad_query.shape[1]
    num_key_heads = (grad_heads.shape[2] - num_query_heads) // 2
    query, key, value = (t.transpose(1, 2) for t in (grad_query, grad_key, grad_value))
    if num_key_heads < num_query_heads:
        groups = (*key.shape[:2], num_key_heads, -1, key.shape[-1])
        key, value = (t.view(groups).sum(3) for t in (key, value))
    grad_heads[:, :, :num_query_heads] = _rotate(query, cos, -sin)
    grad_heads[:, :, num_query_heads:-num_key_heads] = _rotate(key, cos, -sin)
    grad_heads[:, :, -num_key_heads:] = value


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = heads.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def as_rows(tensor: Tensor) -> Tensor:
    """(..., I) as (N, I)."""
    return tensor.reshape(-1, tensor.shape[-1])


def stack_weights(*weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (O, I) one below the other in `dtype`: one product instead of several."""
    sizes = [len(weight) for weight in weights]
    out = weights[0].new_empty(sum(sizes), weights[0].shape[1], dtype=dtype)
    for part, weight in zip(torch.split(out, sizes), weights, strict=True):
        part.copy_(weight.detach())
    return out


def weight_gradients(
    weights: tuple[Tensor, ...], grad_output: Tensor, inputs: Tensor, backend: KernelBackend
) -> list[Tensor | None]:
    """Gradients (O, I) of stacked `weights`, whose product with `inputs` (..., I) was one.

    Each in its weight's dtype; None for a frozen weight (LoRA).
    """
    if not any(weight.requires_grad for weight in weights):
        return [None] * len(weights)
    stacked = _weight_gradient(as_rows(grad_output), as_rows(inputs), weights[0].dtype, backend)
    parts = torch.split(stacked, [len(weight) for weight in weights])
    return [
        part if weight.requires_grad else None for weight, part in zip(weights, parts, strict=True)
    ]


def _weight_gradient(
    grad_output: Tensor, inputs: Tensor, dtype: torch.dtype, backend: KernelBackend
) -> Tensor:
    """`grad_output.T @ inputs` (O, I) in `dtype`, of `grad_output` (N, O) and `inputs` (N, I).

    oneDNN is slow with a left factor whose columns are not contiguous, where the product is large:
    8 ms for a weight of 768 by 3,072 from 2,048 tokens on two cores with AMX, 4 ms once that factor
    is transposed in memory, which compiled code does in less than one (PyTorch's own in 5). The
    narrower factor is transposed, and then perhaps the product. MKL, for fp32, is fast either way.
    """
    is_large = grad_output.numel() * inputs.shape[1] >= WORTH_TRANSPOSING
    if not (backend.compiled and is_large) or grad_output.dtype == torch.float32:
        return (grad_output.T @ inputs).to(dtype)
    if grad_output.shape[1] <= inputs.shape[1]:
        return (_transposed(grad_output, grad_output.dtype) @ inputs).to(dtype)
    return _transposed(_transposed(inputs, inputs.dtype) @ grad_output, dtype)


def _transposed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    out = rows.new_empty(rows.shape[::-1], dtype=dtype)
    COMPILED(_copy_transposed, (rows, out))
    return out


def _copy_transposed(rows: Tensor, out: Tensor) -> None:
    out.copy_(rows.T)
