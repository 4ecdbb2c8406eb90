"""Forward passes of Llama's layers for training on a CPU: the same sums in half of the memory.

PyTorch keeps every intermediate result of a layer until the backward pass: 48 kB a token and layer
at the paper's 160m shape in bfloat16, and all weights cast to bfloat16. What is cheap to compute
again (a norm, SwiGLU's product, a cast weight) is not kept here, which leaves 25 kB. On a GPU
`torch.compile` does the same by itself.

A layer gets its new `forward` as an attribute of the instance, as Liger Kernel does it: its class,
its weights and their names stay those of transformers, so that saving and LoRA work as ever.
"""

# B rows, T tokens, N tokens of a micro-batch, H hidden, F intermediate width, I in, O out

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3MLP, Qwen3RMSNorm

from teenytinyllama.training.cpu import kernels
from teenytinyllama.training.cpu.attention import CausalAttention
from teenytinyllama.training.cpu.kernels import KernelBackend, as_rows


def use_cpu_layers(model: nn.Module, backend: KernelBackend) -> None:
    """Give the decoder layers of a Llama forward passes that keep little for the backward pass.

    What they compute stays the same, the last bits aside. Left alone: other models, layers with
    biases, other activations, projections wrapped by LoRA. Of a Qwen3 all but the attention.
    """
    for layer in model.modules():
        if isinstance(layer, LlamaDecoderLayer | Qwen3DecoderLayer):
            for module in layer.modules():
                forward = _forward_for(module)
                if forward is not None:
                    patched: Any = module
                    patched.forward = partial(forward, module, backend)


def _forward_for(module: Any) -> Callable[..., Any] | None:
    """The new forward pass of a module; None to leave it alone."""
    if type(module) in (LlamaRMSNorm, Qwen3RMSNorm):
        return _rms_norm
    if type(module) in (LlamaMLP, Qwen3MLP) and module.config.hidden_act == "silu":
        projections = (module.gate_proj, module.up_proj, module.down_proj)
        drops_inside = bool(module.down_proj._forward_pre_hooks)
        return _mlp if all(map(_is_plain_linear, projections)) and not drops_inside else None
    if type(module) is LlamaAttention and not module.attention_dropout:
        projections = (module.q_proj, module.k_proj, module.v_proj)
        return _attention if all(map(_is_plain_linear, projections)) else None
    return _linear if _is_plain_linear(module) else None


def _is_plain_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.bias is None


def _linear(module: nn.Linear, backend: KernelBackend, input: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return nn.Linear.forward(module, input)
    out: Tensor = _Linear.apply(input, module.weight, _product_dtype(input), backend)  # type: ignore[no-untyped-call]
    return out


def _rms_norm(module: Any, backend: KernelBackend, hidden_states: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        whole: Tensor = type(module).forward(module, hidden_states)
        return whole
    dtype, epsilon = _product_dtype(hidden_states), module.variance_epsilon
    out: Tensor = _RMSNorm.apply(hidden_states, module.weight, epsilon, dtype, backend)  # type: ignore[no-untyped-call]
    return out


def _mlp(module: Any, backend: KernelBackend, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        whole: Tensor = type(module).forward(module, x)
        return whole
    weights = (module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight)
    out: Tensor = _SwiGLU.apply(x, *weights, _product_dtype(x), backend)  # type: ignore[no-untyped-call]
    return out


def _attention(
    module: Any,
    backend: KernelBackend,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Masks, caches and rows that hold several texts are left to transformers."""
    is_plain = attention_mask is None and past_key_values is None
    is_plain = is_plain and module.config._attn_implementation == "sdpa"
    if not (torch.is_grad_enabled() and is_plain and position_embeddings is not None):
        whole: tuple[Tensor, Tensor | None] = LlamaAttention.forward(
            module, hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
        )
        return whole
    mixed: Tensor = CausalAttention.apply(  # type: ignore[no-untyped-call]
        hidden_states,
        module.q_proj.weight,
        module.k_proj.weight,
        module.v_proj.weight,
        position_embeddings,
        module.head_dim,
        module.scaling,
        _product_dtype(hidden_states),
        backend,
    )
    out: Tensor = module.o_proj(mixed)
    return out, None


class _Linear(torch.autograd.Function):
    """Keeps its input once, in the dtype of the product, and no cast weight."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, dtype: torch.dtype, backend: KernelBackend
    ) -> Tensor:
        ctx.dtype, ctx.backend = inputs.dtype, backend
        inputs = inputs.to(dtype)  # (..., I)
        ctx.save_for_backward(inputs, weight)
        return _times(inputs, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        grad_input = None
        if ctx.needs_input_grad[0]:
            grad_input = (grad_output @ weight.to(grad_output.dtype)).to(ctx.dtype)
        (grad_weight,) = kernels.weight_gradients((weight,), grad_output, inputs, ctx.backend)
        return grad_input, grad_weight, None, None


class _RMSNorm(torch.autograd.Function):
    """Keeps its input and one number a token; its output has the dtype of the next product."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        epsilon: float,
        dtype: torch.dtype,
        backend: KernelBackend,
    ) -> Tensor:
        ctx.backend = backend
        out = inputs.new_empty(inputs.shape, dtype=dtype)  # contiguous, whatever the input is
        rows = as_rows(inputs)  # (N, H)
        scale = rows.new_empty(rows.shape[0], 1, dtype=torch.float32)
        backend(kernels.rms_norm, (rows, as_rows(out), scale), weight, epsilon)
        ctx.save_for_backward(inputs, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        inputs, weight, scale = ctx.saved_tensors
        grad_input = inputs.new_empty(inputs.shape)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        rows = (as_rows(inputs), scale, as_rows(grad_output), as_rows(grad_input))
        ctx.backend(kernels.rms_norm_backward, rows, weight, grad_weight)
        return grad_input, grad_weight.to(weight.dtype), None, None, None


class _SwiGLU(torch.autograd.Function):
    """Keeps the gate and the up projection, not their product."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        gate_weight: Tensor,
        up_weight: Tensor,
        down_weight: Tensor,
        dtype: torch.dtype,
        backend: KernelBackend,
    ) -> Tensor:
        ctx.dtype, ctx.backend = inputs.dtype, backend
        inputs = inputs.to(dtype)  # (B, T, H)
        gate, up = _times(inputs, gate_weight), _times(inputs, up_weight)  # (B, T, F)
        hidden = gate.new_empty(gate.shape)
        backend(kernels.swiglu, (as_rows(gate), as_rows(up), as_rows(hidden)))
        ctx.save_for_backward(inputs, gate_weight, up_weight, down_weight, gate, up)
        return _times(hidden, down_weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        inputs, gate_weight, up_weight, down_weight, gate, up = ctx.saved_tensors
        backend = ctx.backend
        grad_hidden = as_rows(grad_output @ down_weight.to(grad_output.dtype))  # (N, F)
        hidden, grad_gate, grad_up = (torch.empty_like(grad_hidden) for _ in range(3))
        rows = (grad_hidden, as_rows(gate), as_rows(up), hidden, grad_gate, grad_up)
        backend(kernels.swiglu_backward, rows)
        del grad_hidden, rows
        (grad_down_weight,) = kernels.weight_gradients((down_weight,), grad_output, hidden, backend)
        grad_input = grad_gate @ gate_weight.to(grad_gate.dtype)
        grad_input.addmm_(grad_up, up_weight.to(grad_up.dtype))
        (grad_gate_weight,) = kernels.weight_gradients((gate_weight,), grad_gate, inputs, backend)
        (grad_up_weight,) = kernels.weight_gradients((up_weight,), grad_up, inputs, backend)
        grad_weights = (grad_gate_weight, grad_up_weight, grad_down_weight)
        return grad_input.view_as(inputs).to(ctx.dtype), *grad_weights, None, None


def _times(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs` (..., I) by `weight` (O, I) in the dtype of the inputs: (..., O)."""
    return inputs @ weight.to(inputs.dtype).T


def _product_dtype(inputs: Tensor) -> torch.dtype:
    """The dtype of a product with these inputs: autocast's, where it is on."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
