"""The backward pass of causal attention on a CPU with matrix units, for short rows.

PyTorch's kernel calls oneDNN once for 64 queries of a head, and at 512 tokens most of its time is
what a call costs: 33 ms for 12 heads of 4 rows on two cores. Here a product covers all heads of a
row. Scores are fp32 as there, and the gradients are nearer to the exact ones: what is rounded is
rounded once. From 1,024 tokens on the kernel is faster (EXPERIMENTS.md).
"""

# B rows, T tokens, Q query heads, D head size

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor

from teenytinyllama.training.cpu.kernels import COMPILED

MAX_TOKENS = 512


def suits(query: Tensor) -> bool:
    """Whether this is faster than the kernel for `query` (B, Q, T, D)."""
    has_units = torch.cpu._is_amx_tile_supported()
    return has_units and query.dtype == torch.bfloat16 and query.shape[2] <= MAX_TOKENS


def attention_backward(state: tuple[Tensor, ...], scaling: float) -> tuple[Tensor, ...]:
    """Gradients by queries, keys and values, each (B, Q, T, D).

    `state` is what PyTorch's kernel takes: the gradient from above, queries, keys, values, what
    the forward pass gave, and the logarithm of each softmax's sum (B, Q, T).
    """
    upstream, query, key, value, mixed, partition = state
    num_rows, num_heads, length, _ = query.shape
    by_query, by_key, by_value = query.new_empty(3, *query.shape)
    along = query.new_empty(partition.shape, dtype=torch.float32)
    COMPILED(_dot, (upstream, mixed, along))
    weights, by_scores = query.new_empty(2, num_heads, length, length)
    middle = (length + 1) // 2
    for square in (weights, by_scores):
        square[:, :middle, middle:] = 0  # what comes later is not seen
    places = torch.arange(length)
    mask = torch.where(places <= places[:, None], 0.0, -inf)
    for row in range(num_rows):
        queries, above, keys, values = (
            t[row].to(torch.float32, memory_format=torch.contiguous_format)
            for t in (query, upstream, key, value)
        )
        for start, end in ((0, middle), (middle, length)):
            here, seen = slice(start, end), slice(0, end)
            with _products_of_narrow_numbers():
                # Sliced keys are copied: oneDNN is slow with products whose factors have gaps.
                scores = queries[:, here] @ keys[:, seen].contiguous().mT
                by_weights = above[:, here] @ values[:, seen].contiguous().mT
            metrics = (partition[row, :, here, None], along[row, :, here, None])
            squares = (weights[:, here, seen], by_scores[:, here, seen])
            work = (scores, by_weights, *metrics, mask[here, seen], *squares)
            COMPILED(_softmax_backward, work, scaling)
        torch.bmm(by_scores, key[row], out=by_query[row])
        torch.bmm(by_scores.mT, query[row], out=by_key[row])
        torch.bmm(weights.mT, upstream[row], out=by_value[row])
    return by_query, by_key, by_value


def _dot(one: Tensor, other: Tensor, out: Tensor) -> None:
    out.copy_((one.float() * other.float()).sum(-1))


def _softmax_backward(
    scores: Tensor,
    by_weights: Tensor,
    partition: Tensor,
    along: Tensor,
    mask: Tensor,
    weights: Tensor,
    by_scores: Tensor,
    scaling: float,
) -> None:
    """Attention weights, and the gradient by their scores; `mask` is -inf where none are."""
    wide = torch.exp(scores * scaling + mask - partition)
    weights.copy_(wide)
    by_scores.copy_(wide * (by_weights - along) * scaling)


@contextmanager
def _products_of_narrow_numbers() -> Iterator[None]:
    """Inside, fp32 products take their factors as bfloat16, which these are, and sum in fp32."""
    backends: Any = torch.backends.mkldnn
    matmul = backends.matmul
    usual = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = usual
