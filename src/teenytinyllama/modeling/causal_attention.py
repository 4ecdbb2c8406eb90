"""Causal attention without a mask, for training; by blocks where a row holds several texts.

transformers 5.17 builds a mask of all pairs of a row's tokens wherever its forward pass is compiled
(huggingface/transformers issue 48925): the kernels that know that attention is causal are not
eligible then, and the whole square is computed. Run eagerly it leaves the mask out, but the host
waits for the device to see that it may. `causal_states` runs the same layers and neither builds nor
asks: it is for rows without padding on the left and without a cache, which is what training reads.
Every other use of a model (samples, benchmark items, stems) goes through transformers as ever.

    plain rows            no mask, `is_causal`: FlashAttention or cuDNN's kernel
    rows of texts, GPU    FlexAttention skips blocks of pairs that no text has
    rows of texts, CPU    one text at a time
"""

# B rows, T tokens of a row, H query heads, K key-value heads, D head size

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_causal_mask,
    sdpa_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BY_TEXT = "ttl_by_text"
FLEX = "ttl_flex"
NAMES = {BY_TEXT: "flash, one text at a time", FLEX: "flex"}
FIRST_WITH_FAST_CUDNN = (9, 0)  # Hopper
FIRST_WITH_FLEX = (8, 0)  # Ampere: FlexAttention's kernels need its asynchronous copies


class TextSpans(list[list[tuple[int, int]]]):
    """Start and end of each text, for every row."""


Mask = Tensor | BlockMask | TextSpans | None


def causal_states(decoder: Any, embedded: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """What the head of a Llama reads (B, T, hidden), from `embedded` tokens of the same shape.

    Every token attends to those before it in its row. With `position_ids` (B, T) a text begins
    where they are 0, and attends to itself only.
    """
    if position_ids is None:
        position_ids = torch.arange(embedded.shape[1], device=embedded.device)[None]
        mask: Mask = None
    else:
        mask = _mask_of_texts(decoder.config, embedded, position_ids)
    angles = decoder.rotary_emb(embedded, position_ids=position_ids)
    hidden = embedded
    for layer in decoder.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=angles)
    out: Tensor = decoder.norm(hidden)
    return out


def isolate_texts(model: PreTrainedModel, device: torch.device) -> None:
    """Let `causal_states` of a model on `device` attend within each text of a row by kernels.

    Losses and gradients are those of a mask over all pairs, which it stays where no kernel does.
    """
    if device.type == "cpu":
        model.set_attn_implementation(BY_TEXT)
    elif _runs_flex(model, device):
        model.set_attn_implementation(FLEX)


def attention_kernels(device: torch.device, attention: str) -> AbstractContextManager[Any]:
    """Inside, PyTorch prefers the kernel that `pretrain.attention` asks for on this device.

    On Hopper and newer cuDNN's is the fastest for causal rows; PyTorch would take FlashAttention 2.
    """
    if attention != "auto" or device.type == "cpu":
        return nullcontext()
    if torch.cuda.get_device_capability(device) < FIRST_WITH_FAST_CUDNN:
        return nullcontext()
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    kernels: AbstractContextManager[Any] = sdpa_kernel(order, set_priority=True)
    return kernels


def kernel_name(model: Any, device: torch.device, dtype: torch.dtype, length: int) -> str:
    """The attention kernel that a training step runs here, for rows of `length` tokens."""
    config = model.config
    if config._attn_implementation in NAMES:
        return NAMES[config._attn_implementation]
    if config._attn_implementation != "sdpa":
        return str(config._attn_implementation)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (1, config.num_attention_heads, length, size)
    query = torch.zeros(shape, dtype=dtype, device=device, requires_grad=True)
    chosen = torch._fused_sdp_choice(query, query, query, None, 0.0, True)
    return SDPBackend(chosen).name.lower().replace("_attention", "")


def _runs_flex(model: PreTrainedModel, device: torch.device) -> bool:
    if torch.cuda.get_device_capability(device) < FIRST_WITH_FLEX:
        return False
    return not any(getattr(module, "attention_dropout", 0.0) for module in model.modules())


def _mask_of_texts(config: Any, embedded: Tensor, position_ids: Tensor) -> Mask:
    if config._attn_implementation == BY_TEXT:
        return TextSpans(texts_of_row(row) for row in position_ids)
    if config._attn_implementation == FLEX:
        return _block_mask(position_ids)
    mask: Tensor | None = create_causal_mask(
        config, embedded, attention_mask=None, past_key_values=None, position_ids=position_ids
    )
    return mask


def texts_of_row(position_ids: Tensor) -> list[tuple[int, int]]:
    """Start and end of each text of a row (T,); padding, all at position 0, is left out.

    >>> texts_of_row(torch.tensor([0, 1, 2, 0, 1, 0, 0]))
    [(0, 3), (3, 5)]
    """
    starts = (position_ids == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], len(position_ids)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end - start > 1]


def _block_mask(position_ids: Tensor) -> BlockMask:
    num_rows, length = position_ids.shape
    texts = (position_ids == 0).cumsum(-1)  # (B, T)

    def same_text(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (texts[row, query] == texts[row, key])

    return create_block_mask(same_text, num_rows, None, length, length, device=texts.device)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask,
    *,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """The signature of transformers: `query` (B, H, T, D), `key`, `value` (B, K, T, D)."""
    if isinstance(attention_mask, BlockMask):
        out = _flex(query.device)(
            query,
            key,
            value,
            block_mask=attention_mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.transpose(1, 2).contiguous(), None  # (B, T, H, D)
    if isinstance(attention_mask, TextSpans):
        return _attend_by_text(query, key, value, attention_mask, scaling, dropout), None
    whole: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
    )
    return whole


def _flex(device: torch.device) -> Callable[..., Any]:
    """FlexAttention, which has a fast kernel only where it is compiled."""
    is_compiled_with_the_layers = torch.compiler.is_compiling() or device.type == "cpu"
    whole: Callable[..., Any] = flex_attention
    return whole if is_compiled_with_the_layers else _compiled_flex()


@cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _attend_by_text(
    query: Tensor, key: Tensor, value: Tensor, texts: TextSpans, scaling: float, dropout: float
) -> Tensor:
    """Ten conversations in a row of 2,048 are a tenth of its pairs, and half of those are causal.

    Returns (B, T, H, D), zeros where no text is. A GPU gains nothing from many small calls.
    """
    out = torch.zeros_like(query)
    for row, spans in enumerate(texts):
        for start, end in spans:
            out[row : row + 1, :, start:end] = functional.scaled_dot_product_attention(
                query[row : row + 1, :, start:end],
                key[row : row + 1, :, start:end],
                value[row : row + 1, :, start:end],
                dropout_p=dropout,
                is_causal=True,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
    return out.transpose(1, 2).contiguous()


for _name in (BY_TEXT, FLEX):
    ALL_ATTENTION_FUNCTIONS.register(_name, _attend)
    # All that does not come from `causal_states`: caches, padding on the left, held-out text.
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, sdpa_mask)
