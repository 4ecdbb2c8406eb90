"""Causal self-attention for training on a CPU that keeps little for the backward pass.

It calls two private operators of PyTorch, `_scaled_dot_product_flash_attention_for_cpu` and its
backward pass, which `scaled_dot_product_attention` runs on a CPU as well. The public function would
keep keys and values once for each query head until the backward pass (8 times as much with 32 query
heads to 4 key-value heads); here they are repeated again when needed.
"""

# B rows, T tokens, H hidden, Q query heads, K key-value heads, D head size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from teenytinyllama.training.cpu import kernels
from teenytinyllama.training.cpu.kernels import KernelBackend


class CausalAttention(torch.autograd.Function):
    """Projections to queries, keys and values, rotary positions and attention: (B, T, Q D)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        angles: tuple[Tensor, Tensor],
        head_size: int,
        scaling: float,
        dtype: torch.dtype,
        backend: KernelBackend,
    ) -> Tensor:
        """`inputs` (B, T, H), weights (Q D or K D, H), `angles`: cosine and sine (1 or B, T, D)."""
        ctx.dtype, ctx.scaling, ctx.backend = inputs.dtype, scaling, backend
        inputs = inputs.to(dtype)
        weights = kernels.stack_weights(query, key, value, dtype=dtype)  # ((Q + 2 K) D, H)
        heads = _split_heads(inputs @ weights.T, head_size)  # (B, T, Q + 2 K, D)
        ctx.num_key_heads = key.shape[0] // head_size
        backend(kernels.rope, (heads[:, :, : -ctx.num_key_heads], *_halves(angles, heads)))
        mixed, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *_repeat_keys(heads, ctx.num_key_heads), 0.0, True, scale=scaling
        )  # (B, Q, T, D), (B, Q, T)
        ctx.save_for_backward(inputs, query, key, value, *angles, heads, mixed, logsumexp)
        out: Tensor = mixed.transpose(1, 2).flatten(2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """`grad_output` (B, T, Q D) to the gradients of inputs and weights."""
        inputs, query, key, value, cos, sin, heads, mixed, logsumexp = ctx.saved_tensors
        grad_mixed = _split_heads(grad_output, heads.shape[-1]).transpose(1, 2)  # (B, Q, T, D)
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_mixed,
            *_repeat_keys(heads, ctx.num_key_heads),
            mixed,
            logsumexp,
            0.0,
            True,
            scale=ctx.scaling,
        )
        grad_heads = torch.empty_like(heads)
        ctx.backend(kernels.rope_backward, (*gradients, *_halves((cos, sin), heads), grad_heads))
        grad_heads = grad_heads.flatten(2)  # (B, T, (Q + 2 K) D)
        grad_input = None
        if ctx.needs_input_grad[0]:
            weights = kernels.stack_weights(query, key, value, dtype=grad_heads.dtype)
            grad_input = (grad_heads @ weights).to(ctx.dtype)
        grad_weights = kernels.weight_gradients(
            (query, key, value), grad_heads, inputs, ctx.backend
        )
        return grad_input, *grad_weights, None, None, None, None, None


def _split_heads(rows: Tensor, head_size: int) -> Tensor:
    """`rows` (B, T, any D) as (B, T, any, D)."""
    return rows.reshape(*rows.shape[:-1], -1, head_size)


def _repeat_keys(heads: Tensor, num_key_heads: int) -> list[Tensor]:
    """Queries, keys and values, each (B, Q, T, D): keys and values repeated for each query head."""
    num_query_heads = heads.shape[2] - 2 * num_key_heads
    sizes = [num_query_heads, num_key_heads, num_key_heads]
    query, *others = torch.split(heads.transpose(1, 2), sizes, dim=1)
    share = num_query_heads // num_key_heads
    return [query, *(t if share == 1 else t.repeat_interleave(share, dim=1) for t in others)]


def _halves(angles: tuple[Tensor, Tensor], heads: Tensor) -> list[Tensor]:
    """The first half of `angles` (the second half is equal): (B, T, 1, D / 2) each."""
    half = heads.shape[-1] // 2
    return [angle[:, :, None, :half].expand(len(heads), -1, -1, -1) for angle in angles]
