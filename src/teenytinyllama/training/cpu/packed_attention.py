"""Attention for rows that hold several texts, on a CPU: one text at a time.

transformers isolates the texts of a row by a mask over all pairs of its tokens, and computes every
pair only to discard most. Ten conversations in a row of 2,048 are a tenth of the pairs, and half of
those again where the kernel knows that attention is causal. A GPU keeps the mask: its kernels gain
nothing from many small calls.
"""

# B rows, T tokens of a row, H query heads, K key-value heads, D head size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "ttl_isolated"


def isolate_texts(model: PreTrainedModel) -> None:
    """Let a model attend within each text of a row by itself.

    A text begins where `position_ids` are 0, as with the mask: losses and gradients are the same.
    """
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
    model.set_attn_implementation(NAME)


def texts_of_row(position_ids: Tensor) -> list[tuple[int, int]]:
    """Start and end of each text of a row (T,); padding, all at position 0, is left out.

    >>> texts_of_row(torch.tensor([0, 1, 2, 0, 1, 0, 0]))
    [(0, 3), (3, 5)]
    """
    starts = (position_ids == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], len(position_ids)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end - start > 1]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_ids: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """The signature of transformers: `query` (B, H, T, D), `key`, `value` (B, K, T, D)."""
    assert attention_mask is None, "texts of a row are separated by position_ids alone"
    out = torch.zeros_like(query)
    for row, positions in enumerate(position_ids.expand(len(query), -1)):
        for start, end in texts_of_row(positions):
            out[row : row + 1, :, start:end] = functional.scaled_dot_product_attention(
                query[row : row + 1, :, start:end],
                key[row : row + 1, :, start:end],
                value[row : row + 1, :, start:end],
                dropout_p=dropout,
                is_causal=True,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
    return out.transpose(1, 2).contiguous(), None  # (B, T, H, D)
