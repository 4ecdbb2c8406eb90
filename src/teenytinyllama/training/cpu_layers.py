"""A Llama's layers for training on a CPU: the same sums in half of the memory.

PyTorch keeps every intermediate result of a layer until the backward pass: 48 kB a token and layer
at the paper's 160m shape in bfloat16, and all weights in fewer bits. What is cheap to compute again
(a norm, a gate times its value, such a weight) is not kept here, which leaves 25 kB. Long passes
over memory go in blocks that stay in the processor's cache. On a GPU `torch.compile` does both by
itself.
"""

# B rows, T tokens, N tokens of a micro-batch, H hidden, F intermediate width, I in, O out

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm
from typing_extensions import override

BLOCK_BYTES = 1024 * 1024


def use_lean_layers(model: nn.Module) -> None:
    """Let the decoder layers of a Llama keep little for the backward pass.

    Weights, their names and what the layers compute stay the same, the last bits aside. Left
    alone: models that are no Llama, layers with biases, other activations, projections that LoRA
    has wrapped.
    """
    for layer in model.modules():
        if isinstance(layer, LlamaDecoderLayer):
            # Outer modules first: an MLP looks at its projections before these change.
            for module in layer.modules():
                lean = _lean_class(module)
                if lean is not None:
                    module.__class__ = lean


def _lean_class(module: nn.Module) -> type[nn.Module] | None:
    """What `module` becomes; None where it must stay as it is."""
    if type(module) is LlamaRMSNorm:
        return LeanRMSNorm
    mlp: Any = module
    if type(module) is LlamaMLP and mlp.config.hidden_act == "silu":
        projections = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        return LeanMLP if all(map(_has_no_bias, projections)) else None
    return LeanLinear if _has_no_bias(module) else None


def _has_no_bias(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.bias is None


class LeanLinear(nn.Linear):
    """A product that keeps its input in the product's dtype once, and no narrow weight."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(input)
        product: Tensor = _Product.apply(input, self.weight, _dtype_of(input))  # type: ignore[no-untyped-call]
        return product


class LeanRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    """A norm that keeps its input and one number a token, and comes in the product's dtype."""

    @override
    def forward(self, hidden_states: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            whole: Tensor = super().forward(hidden_states)
            return whole
        norm: Tensor = _RMSNorm.apply(  # type: ignore[no-untyped-call]
            hidden_states, self.weight, self.variance_epsilon, _dtype_of(hidden_states)
        )
        return norm


class LeanMLP(LlamaMLP):  # type: ignore[misc]
    """SwiGLU that keeps gate and value, not their product."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            whole: Tensor = super().forward(x)
            return whole
        weights = (self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
        out: Tensor = _SwiGLU.apply(x, *weights, _dtype_of(x))  # type: ignore[no-untyped-call]
        return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = inputs.dtype
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
        return by_inputs, _gradient_of(weight, upstream, inputs), None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
    ) -> Tensor:
        out = inputs.new_empty(inputs.shape, dtype=dtype)  # row by row, whatever the input is
        rows, out_rows = _rows(inputs), _rows(out)  # (N, H)
        scale = rows.new_empty(rows.shape[0], 1, dtype=torch.float32)
        for block in _blocks(rows):
            wide = rows[block].float()
            scale[block] = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
            out_rows[block] = wide * scale[block] * weight
        ctx.save_for_backward(inputs, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        inputs, weight, scale = ctx.saved_tensors
        by_inputs = inputs.new_empty(inputs.shape)
        by_weight = torch.zeros_like(weight, dtype=torch.float32)
        rows, by_rows, above = _rows(inputs), _rows(by_inputs), _rows(upstream)
        for block in _blocks(rows):
            normed = rows[block].float() * scale[block]
            wide = above[block].float()
            by_weight += (wide * normed).sum(0)
            wide = wide * weight
            along = (wide * normed).mean(-1, keepdim=True)
            by_rows[block] = (wide - normed * along) * scale[block]
        return by_inputs, by_weight.to(weight.dtype), None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.dtype = inputs.dtype
        inputs = inputs.to(dtype)  # (B, T, H)
        gates, values = _times(inputs, gate), _times(inputs, up)  # (B, T, F)
        hidden = gates.new_empty(gates.shape)
        gate_rows, value_rows, rows = _rows(gates), _rows(values), _rows(hidden)
        for block in _blocks(rows):
            torch.mul(functional.silu(gate_rows[block]), value_rows[block], out=rows[block])
        ctx.save_for_backward(inputs, gate, up, down, gates, values)
        return _times(hidden, down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        inputs, gate, up, down, gates, values = ctx.saved_tensors
        by_hidden = _rows(upstream @ down.to(upstream.dtype))  # (N, F)
        hidden, by_gates, by_values = (torch.empty_like(by_hidden) for _ in range(3))
        gate_rows, value_rows = _rows(gates), _rows(values)
        for block in _blocks(by_hidden):
            opened = functional.silu(gate_rows[block])
            torch.mul(opened, value_rows[block], out=hidden[block])
            torch.mul(by_hidden[block], opened, out=by_values[block])
            by_opened = by_hidden[block] * value_rows[block]
            by_gates[block] = torch.ops.aten.silu_backward(by_opened, gate_rows[block])
        del by_hidden
        by_down = _gradient_of(down, upstream, hidden)
        by_inputs = by_gates @ gate.to(by_gates.dtype)
        by_inputs.addmm_(by_values, up.to(by_values.dtype))
        by_gate = _gradient_of(gate, by_gates, inputs)
        by_up = _gradient_of(up, by_values, inputs)
        return by_inputs.view_as(inputs).to(ctx.dtype), by_gate, by_up, by_down, None


def _times(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs` (..., I) by `weight` (O, I) in the dtype of the inputs: (..., O)."""
    return inputs @ weight.to(inputs.dtype).T


def _gradient_of(weight: Tensor, upstream: Tensor, inputs: Tensor) -> Tensor | None:
    """The gradient (O, I) of a weight whose product with `inputs` (..., I) is (..., O).

    None for a weight that does not learn (LoRA).
    """
    if not weight.requires_grad:
        return None
    return (_rows(upstream).T @ _rows(inputs)).to(weight.dtype)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Slices of `rows` (N, ...) of about `BLOCK_BYTES` each in fp32."""
    step = max(1, BLOCK_BYTES // (4 * rows.shape[-1]))
    for start in range(0, rows.shape[0], step):
        yield slice(start, start + step)


def _dtype_of(inputs: Tensor) -> torch.dtype:
    """What a product with these inputs is computed in: autocast's dtype, where it is on."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
