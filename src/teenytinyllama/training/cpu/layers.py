"""A Llama's layers for training on a CPU: the same sums in half of the memory.

PyTorch keeps every intermediate result of a layer until the backward pass: 48 kB a token and layer
at the paper's 160m shape in bfloat16, and all weights in fewer bits. What is cheap to compute again
(a norm, a gate times its value, such a weight) is not kept here, which leaves 25 kB. Long passes
over memory go in blocks that stay in the processor's cache. On a GPU `torch.compile` does both by
itself.
"""

# B rows, T tokens, N tokens of a micro-batch, H hidden, F intermediate width, I in, O out
# Q query heads, K key-value heads, D head size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
)
from typing_extensions import override

from teenytinyllama.training.cpu import attention, kernels
from teenytinyllama.training.cpu.kernels import OverRows


def use_lean_layers(model: nn.Module, over_rows: OverRows = kernels.IN_BLOCKS) -> None:
    """Let the decoder layers of a Llama keep little for the backward pass.

    Weights, their names and what the layers compute stay the same, the last bits aside. Left
    alone: models that are no Llama, layers with biases, other activations, projections that LoRA
    has wrapped. `over_rows` says how the passes between the products are done.
    """
    for layer in model.modules():
        if isinstance(layer, LlamaDecoderLayer):
            # Outer modules first: they look at their projections before these change.
            for module in layer.modules():
                lean = _lean_class(module)
                if lean is not None:
                    module.__class__ = lean
                    known: Any = module
                    known.over_rows = over_rows


def _lean_class(module: nn.Module) -> type[nn.Module] | None:
    """What `module` becomes; None where it must stay as it is."""
    if type(module) is LlamaRMSNorm:
        return LeanRMSNorm
    known: Any = module
    if type(module) is LlamaMLP and known.config.hidden_act == "silu":
        projections = (known.gate_proj, known.up_proj, known.down_proj)
        return LeanMLP if all(map(_has_no_bias, projections)) else None
    if type(module) is LlamaAttention and not known.attention_dropout:
        projections = (known.q_proj, known.k_proj, known.v_proj)
        return LeanAttention if all(map(_has_no_bias, projections)) else None
    return LeanLinear if _has_no_bias(module) else None


def _has_no_bias(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.bias is None


class LeanLinear(nn.Linear):
    """A product that keeps its input in the product's dtype once, and no narrow weight."""

    over_rows: OverRows

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(input)
        product: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            input, self.weight, _dtype_of(input), self.over_rows
        )
        return product


class LeanRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    """A norm that keeps its input and one number a token, and comes in the product's dtype."""

    over_rows: OverRows

    @override
    def forward(self, hidden_states: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            whole: Tensor = super().forward(hidden_states)
            return whole
        norm: Tensor = _RMSNorm.apply(  # type: ignore[no-untyped-call]
            hidden_states,
            self.weight,
            self.variance_epsilon,
            _dtype_of(hidden_states),
            self.over_rows,
        )
        return norm


class LeanMLP(LlamaMLP):  # type: ignore[misc]
    """SwiGLU that keeps gate and value, not their product."""

    over_rows: OverRows

    @override
    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            whole: Tensor = super().forward(x)
            return whole
        weights = (self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
        out: Tensor = _SwiGLU.apply(x, *weights, _dtype_of(x), self.over_rows)  # type: ignore[no-untyped-call]
        return out


class LeanAttention(LlamaAttention):  # type: ignore[misc]
    """Causal attention that keeps its input once and turns queries and keys where they lie.

    Rows that hold several texts, masks and caches go the way of transformers.
    """

    over_rows: OverRows

    @override
    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        is_plain = attention_mask is None and past_key_values is None
        is_plain = is_plain and self.config._attn_implementation == "sdpa"
        if not (torch.is_grad_enabled() and is_plain and position_embeddings is not None):
            whole: tuple[Tensor, Tensor | None] = super().forward(
                hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
            )
            return whole
        weights = (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            hidden_states,
            *weights,
            position_embeddings,
            self.head_dim,
            self.scaling,
            _dtype_of(hidden_states),
            self.over_rows,
        )
        out: Tensor = self.o_proj(mixed)
        return out, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, dtype: torch.dtype, over_rows: OverRows
    ) -> Tensor:
        ctx.dtype, ctx.over_rows = inputs.dtype, over_rows
        inputs = inputs.to(dtype)  # (..., I)
        ctx.save_for_backward(inputs, weight)
        return _times(inputs, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        by_inputs = None
        if ctx.needs_input_grad[0]:
            by_inputs = (upstream @ weight.to(upstream.dtype)).to(ctx.dtype)
        (by_weight,) = _gradients_of((weight,), upstream, inputs, ctx.over_rows)
        return by_inputs, by_weight, None, None


class _Attention(torch.autograd.Function):
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
        over_rows: OverRows,
    ) -> Tensor:
        ctx.dtype, ctx.scaling, ctx.over_rows = inputs.dtype, scaling, over_rows
        inputs = inputs.to(dtype)  # (B, T, H)
        narrow = _side_by_side(query, key, value, dtype=dtype)  # ((Q + 2 K) D, H)
        heads = _heads(inputs @ narrow.T, head_size)  # (B, T, Q + 2 K, D)
        ctx.num_key_heads = key.shape[0] // head_size
        over_rows(kernels.turn, (heads[:, :, : -ctx.num_key_heads], *_halves(angles, heads)))
        mixed, partition = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *_attended(heads, ctx.num_key_heads), 0.0, True, scale=scaling
        )  # (B, Q, T, D), (B, Q, T)
        ctx.save_for_backward(inputs, query, key, value, *angles, heads, mixed, partition)
        out: Tensor = mixed.transpose(1, 2).flatten(2)  # (B, T, Q D)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        inputs, query, key, value, cos, sin, heads, mixed, partition = ctx.saved_tensors
        above = _heads(upstream, heads.shape[-1]).transpose(1, 2)  # (B, Q, T, D)
        state = (above, *_attended(heads, ctx.num_key_heads), mixed, partition)
        if ctx.over_rows.compiled and attention.suits(above):
            parts = attention.attention_backward(state, ctx.scaling)
        else:
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *state, 0.0, True, scale=ctx.scaling
            )
        by_heads = torch.empty_like(heads)
        ctx.over_rows(kernels.turn_back, (*parts, *_halves((cos, sin), heads), by_heads))
        by_heads = by_heads.flatten(2)  # (B, T, (Q + 2 K) D)
        by_inputs = None
        if ctx.needs_input_grad[0]:
            narrow = _side_by_side(query, key, value, dtype=by_heads.dtype)
            by_inputs = (by_heads @ narrow).to(ctx.dtype)
        by_weights = _gradients_of((query, key, value), by_heads, inputs, ctx.over_rows)
        return by_inputs, *by_weights, None, None, None, None, None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        epsilon: float,
        dtype: torch.dtype,
        over_rows: OverRows,
    ) -> Tensor:
        ctx.over_rows = over_rows
        out = inputs.new_empty(inputs.shape, dtype=dtype)  # row by row, whatever the input is
        rows = _rows(inputs)  # (N, H)
        scale = rows.new_empty(rows.shape[0], 1, dtype=torch.float32)
        over_rows(kernels.norm, (rows, _rows(out), scale), weight, epsilon)
        ctx.save_for_backward(inputs, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        inputs, weight, scale = ctx.saved_tensors
        by_inputs = inputs.new_empty(inputs.shape)
        by_weight = torch.zeros_like(weight, dtype=torch.float32)
        rows = (_rows(inputs), scale, _rows(upstream), _rows(by_inputs))
        ctx.over_rows(kernels.norm_backward, rows, weight, by_weight)
        return by_inputs, by_weight.to(weight.dtype), None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        dtype: torch.dtype,
        over_rows: OverRows,
    ) -> Tensor:
        ctx.dtype, ctx.over_rows = inputs.dtype, over_rows
        inputs = inputs.to(dtype)  # (B, T, H)
        gates, values = _times(inputs, gate), _times(inputs, up)  # (B, T, F)
        hidden = gates.new_empty(gates.shape)
        over_rows(kernels.gate, (_rows(gates), _rows(values), _rows(hidden)))
        ctx.save_for_backward(inputs, gate, up, down, gates, values)
        return _times(hidden, down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        inputs, gate, up, down, gates, values = ctx.saved_tensors
        by_hidden = _rows(upstream @ down.to(upstream.dtype))  # (N, F)
        hidden, by_gates, by_values = (torch.empty_like(by_hidden) for _ in range(3))
        rows = (by_hidden, _rows(gates), _rows(values), hidden, by_gates, by_values)
        ctx.over_rows(kernels.gate_backward, rows)
        del by_hidden, rows
        (by_down,) = _gradients_of((down,), upstream, hidden, ctx.over_rows)
        by_inputs = by_gates @ gate.to(by_gates.dtype)
        by_inputs.addmm_(by_values, up.to(by_values.dtype))
        (by_gate,) = _gradients_of((gate,), by_gates, inputs, ctx.over_rows)
        (by_up,) = _gradients_of((up,), by_values, inputs, ctx.over_rows)
        return by_inputs.view_as(inputs).to(ctx.dtype), by_gate, by_up, by_down, None, None


def _times(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs` (..., I) by `weight` (O, I) in the dtype of the inputs: (..., O)."""
    return inputs @ weight.to(inputs.dtype).T


def _gradients_of(
    weights: tuple[Tensor, ...], upstream: Tensor, inputs: Tensor, over_rows: OverRows
) -> list[Tensor | None]:
    """The gradients (O, I) of weights whose products with `inputs` (..., I) lie side by side.

    Each in its weight's dtype; None for a weight that does not learn (LoRA).
    """
    if not any(weight.requires_grad for weight in weights):
        return [None] * len(weights)
    together = kernels.gradient_of_weight(
        _rows(upstream), _rows(inputs), weights[0].dtype, over_rows
    )  # (sum of O, I)
    parts = torch.split(together, [len(weight) for weight in weights])
    return [
        part if weight.requires_grad else None for weight, part in zip(weights, parts, strict=True)
    ]


def _side_by_side(*weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights (O, I) one below the other in `dtype`: one product in place of several."""
    sizes = [len(weight) for weight in weights]
    out = weights[0].new_empty(sum(sizes), weights[0].shape[1], dtype=dtype)
    for part, weight in zip(torch.split(out, sizes), weights, strict=True):
        part.copy_(weight.detach())
    return out


def _heads(rows: Tensor, head_size: int) -> Tensor:
    """`rows` (B, T, any D) as (B, T, any, D)."""
    return rows.reshape(*rows.shape[:-1], -1, head_size)


def _attended(heads: Tensor, num_key_heads: int) -> list[Tensor]:
    """Queries, keys and values (B, Q, T, D), keys and values once for each query of theirs."""
    num_query_heads = heads.shape[2] - 2 * num_key_heads
    sizes = [num_query_heads, num_key_heads, num_key_heads]
    query, *others = torch.split(heads.transpose(1, 2), sizes, dim=1)
    share = num_query_heads // num_key_heads
    return [query, *(t if share == 1 else t.repeat_interleave(share, dim=1) for t in others)]


def _halves(angles: tuple[Tensor, Tensor], heads: Tensor) -> list[Tensor]:
    """The first half of `angles` (1 or B, T, D), the second is the same: (B, T, 1, D / 2) each."""
    half = heads.shape[-1] // 2
    return [angle[:, :, None, :half].expand(len(heads), -1, -1, -1) for angle in angles]


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _dtype_of(inputs: Tensor) -> torch.dtype:
    """What a product with these inputs is computed in: autocast's dtype, where it is on."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
