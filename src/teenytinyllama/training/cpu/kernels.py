"""Passes over rows on a CPU: what a layer computes beside its products.

Each is written once and done in one of two ways. `IN_BLOCKS` runs PyTorch's operators on blocks of
rows that stay in the processor's cache. `COMPILED` lets `torch.compile` write one loop in C++ for a
whole pass, two to ten times faster; that needs a C++ compiler and some seconds at the start.
"""

# N rows, H hidden, F intermediate width, I any width
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
WORTH_TURNING = 1.5e9  # multiplications of a product

RowPass = Callable[..., None]
"""Takes tensors of N rows each, then others; writes into some of them."""


@dataclass(frozen=True)
class OverRows:
    """A way to do passes over rows."""

    compiled: bool

    def __call__(self, work: RowPass, rows: Sequence[Tensor], *others: Any) -> None:
        """Do `work`: compiled code, made once for each shape, or about `BLOCK_BYTES` at a time."""
        if self.compiled:
            _compile(work)(*rows, *others)
            return
        size = max(1, rows[0].numel() // max(1, len(rows[0])))
        step = max(1, BLOCK_BYTES // (4 * size))
        for start in range(0, len(rows[0]), step):
            work(*(tensor[start : start + step] for tensor in rows), *others)


IN_BLOCKS, COMPILED = OverRows(compiled=False), OverRows(compiled=True)


def choose(asked: bool | None, *, flops: float) -> OverRows:
    """How passes are done in a training of so many `flops`.

    Unless `asked` for, compiled code is used where it saves more seconds than it costs (0.3 to
    0.6 TFLOP/s on two cores) and there is a compiler. Raises UserError where it is asked for and
    there is none.
    """
    if asked is False or (asked is None and flops < WORTH_COMPILING_FLOPS):
        return IN_BLOCKS
    logger.info("compiling the layers: some seconds")
    reason = _why_nothing_compiles()
    if reason is None:
        # PyTorch compiles a function for eight shapes; those of an earlier training are not ours.
        torch.compiler.reset()
        return COMPILED
    if asked:
        fix = "apt install g++ python3-dev, or --set pretrain.compile=false"
        raise UserError("no-compiler", "compile = true", reason, fix)
    logger.info(f"layers are not compiled, which costs about a tenth of the speed: {reason}")
    return IN_BLOCKS


def find_compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use: a path; None where there is none."""
    names = (name for name in torch._inductor.config.cpp.cxx if name)
    return next(filter(None, map(shutil.which, names)), None)


@cache
def _why_nothing_compiles() -> str | None:
    if find_compiler() is None:
        return "no C++ compiler"
    try:  # a compiler may lack Python's headers, or OpenMP
        torch.compile(torch.neg, dynamic=False)(torch.ones(8))  # none of ours: its faults are ours
    except RuntimeError as error:  # PyTorch's, whatever was missing
        return str(error).strip().splitlines()[0]
    return None


@cache
def _compile(work: RowPass) -> RowPass:
    return torch.compile(work, dynamic=False, fullgraph=True)


def norm(inputs: Tensor, out: Tensor, scale: Tensor, weight: Tensor, epsilon: float) -> None:
    """RMSNorm (Zhang and Sennrich, 2019) of `inputs` (N, H) into `out` (N, H).

    `scale` (N, 1), fp32, becomes what each row was multiplied by.
    """
    wide = inputs.float()
    scale.copy_(torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon))
    out.copy_(wide * scale * weight)


def norm_backward(
    inputs: Tensor,
    scale: Tensor,
    upstream: Tensor,
    by_inputs: Tensor,
    weight: Tensor,
    by_weight: Tensor,
) -> None:
    """Its gradient: `upstream` (N, H) into `by_inputs` (N, H), and added to `by_weight` (H)."""
    normed = inputs.float() * scale
    wide = upstream.float()
    by_weight += (wide * normed).sum(0)
    wide = wide * weight
    along = (wide * normed).mean(-1, keepdim=True)
    by_inputs.copy_((wide - normed * along) * scale)


def gate(gates: Tensor, values: Tensor, hidden: Tensor) -> None:
    """SwiGLU's product (Shazeer, 2020) of `gates` and `values` (N, F) into `hidden` (N, F)."""
    torch.mul(functional.silu(gates), values, out=hidden)


def gate_backward(
    by_hidden: Tensor,
    gates: Tensor,
    values: Tensor,
    hidden: Tensor,
    by_gates: Tensor,
    by_values: Tensor,
) -> None:
    """Its gradients into `by_gates` and `by_values` (N, F), and the product again into `hidden`."""
    opened = functional.silu(gates)
    torch.mul(opened, values, out=hidden)
    torch.mul(by_hidden, opened, out=by_values)
    by_gates.copy_(torch.ops.aten.silu_backward(by_hidden * values, gates))


def add(total: Tensor, part: Tensor) -> None:
    """Add `part` (N, I), of as many bits or fewer, to `total` (N, I)."""
    total += part


def turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary positions (Su et al., 2021), in place.

    `heads` (B, T, any, D), `cos` and `sin` (B, T, 1, D / 2).
    """
    heads.copy_(_turned(heads, cos, sin))


def turn_back(
    by_query: Tensor, by_key: Tensor, by_value: Tensor, cos: Tensor, sin: Tensor, by_heads: Tensor
) -> None:
    """Gradients of turned heads (B, Q, T, D) into `by_heads` (B, T, Q + 2 K, D), turned back.

    Those of keys and values come once for each query head: those that share one are added.
    """
    num_query_heads = by_query.shape[1]
    num_key_heads = (by_heads.shape[2] - num_query_heads) // 2
    query, key, value = (t.transpose(1, 2) for t in (by_query, by_key, by_value))
    if num_key_heads < num_query_heads:
        shares = (*key.shape[:2], num_key_heads, -1, key.shape[-1])
        key, value = (t.view(shares).sum(3) for t in (key, value))
    by_heads[:, :, :num_query_heads] = _turned(query, cos, -sin)
    by_heads[:, :, num_query_heads:-num_key_heads] = _turned(key, cos, -sin)
    by_heads[:, :, -num_key_heads:] = value


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = heads.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def gradient_of_weight(
    upstream: Tensor, inputs: Tensor, dtype: torch.dtype, over_rows: OverRows
) -> Tensor:
    """`upstream.T @ inputs` (O, I) in `dtype`, of `upstream` (N, O) and `inputs` (N, I).

    oneDNN is slow with a left factor whose columns lie apart, where the product is large: 8 ms for
    a weight of 768 by 3,072 from 2,048 tokens on two cores with AMX, and 4 ms once the numbers are
    turned over, which compiled code does in less than one (PyTorch's own in 5). The narrower
    factor is turned, and then perhaps the product. MKL, for fp32, has no such trouble.
    """
    is_large = upstream.numel() * inputs.shape[1] >= WORTH_TURNING
    if not (over_rows.compiled and is_large) or upstream.dtype == torch.float32:
        return (upstream.T @ inputs).to(dtype)
    if upstream.shape[1] <= inputs.shape[1]:
        return (_transposed(upstream, upstream.dtype) @ inputs).to(dtype)
    return _transposed(_transposed(inputs, inputs.dtype) @ upstream, dtype)


def _transposed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    out = rows.new_empty(rows.shape[::-1], dtype=dtype)
    COMPILED(_copy_transposed, (rows, out))
    return out


def _copy_transposed(rows: Tensor, out: Tensor) -> None:
    out.copy_(rows.T)
