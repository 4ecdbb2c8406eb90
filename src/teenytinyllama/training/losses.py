"""Next-token loss that never holds all logits.

A batch of 32,768 tokens over a vocabulary of 32,000 has 4 GB of fp32 logits, and as much again of
their gradient. Here the head's product, the softmax and both gradients are computed chunk by chunk
in the forward pass; the backward pass only scales them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from teenytinyllama.modeling.causal_attention import causal_states
from teenytinyllama.training.second_token import add_second_token

# N rows, H hidden, V vocabulary
IGNORED = -100
CHUNK_BYTES_CPU = 64 * 1024 * 1024
CHUNK_BYTES_GPU = 1024 * 1024 * 1024
BLOCK_BYTES_CPU = 1024 * 1024


def _softmax_gradient(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Summed loss of some rows and its gradient with respect to the logits, in their dtype."""
    wide = logits.float()  # (N, V)
    logsumexp = torch.logsumexp(wide, dim=-1)  # (N,)
    counted = targets != IGNORED  # (N,)
    safe = targets.clamp_min(0)
    target_logits = wide.gather(-1, safe[:, None])[:, 0]
    loss = torch.where(counted, logsumexp - target_logits, 0.0)
    slope = torch.ones_like(logsumexp)
    if z_loss:
        loss = loss + torch.where(counted, z_loss * logsumexp.square(), 0.0)
        slope = slope + 2 * z_loss * logsumexp
    weight = torch.where(counted, slope, 0.0)
    gradient = torch.exp(wide - logsumexp[:, None]) * weight[:, None]
    # A comparison fuses with the rest; a scatter would write and read the gradient once more.
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]  # (N, V)
    gradient = gradient - is_target.to(gradient.dtype)
    return loss.sum(), gradient.to(logits.dtype)


def _softmax_gradient_in_place(
    logits: Tensor, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The same for a CPU: the gradient overwrites the logits.

    It works on a few rows at a time, which stay in the CPU's cache, and computes one exponential
    for both the sum and the gradient.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    num_rows = max(1, BLOCK_BYTES_CPU // (4 * logits.shape[1]))
    for start in range(0, logits.shape[0], num_rows):
        block = logits[start : start + num_rows]
        target = targets[start : start + num_rows, None]  # (n, 1)
        counted = (target != IGNORED).float()
        safe = target.clamp_min(0)
        wide = block.float()  # (n, V)
        highest = wide.amax(-1, keepdim=True)
        target_logits = wide.gather(-1, safe)
        exp_sum = wide.sub_(highest).exp_().sum(-1, keepdim=True)
        logsumexp = exp_sum.log() + highest
        loss = logsumexp - target_logits + z_loss * logsumexp.square()
        total += (loss * counted).sum()
        slope = (1 + 2 * z_loss * logsumexp) * counted
        wide.mul_(slope / exp_sum).scatter_add_(-1, safe, -counted)
        block.copy_(wide)
    return total, logits


SoftmaxGradient = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@cache
def fused_softmax_gradient() -> SoftmaxGradient:
    """Two passes over the logits, not seven, compiled once for every number of rows."""
    compiled = torch.compile(_softmax_gradient, dynamic=False)

    def run(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        # The supervised tokens of a step are another number in each.
        for rows in (logits, targets):
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        found: tuple[Tensor, Tensor] = compiled(logits, targets, z_loss)
        return found

    return run


def _softmax_gradient_on(device: torch.device, *, fused: bool) -> SoftmaxGradient:
    if device.type == "cpu":
        return _softmax_gradient_in_place
    return fused_softmax_gradient() if fused else _softmax_gradient


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        dtype: torch.dtype,
        fused: bool,
    ) -> Tensor:
        softmax_gradient = _softmax_gradient_on(hidden.device, fused=fused)
        narrow = weight.to(dtype)  # (V, H)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight: Tensor | None = None
        total = hidden.new_zeros((), dtype=torch.float32)
        chunk = _rows_per_chunk(hidden, weight.shape[0])
        for start in range(0, hidden.shape[0], chunk):
            rows = hidden[start : start + chunk].to(dtype)  # (n, H)
            loss, gradient = softmax_gradient(
                rows @ narrow.T, targets[start : start + chunk], z_loss
            )
            total += loss
            if grad_hidden is not None:
                grad_hidden[start : start + chunk] = gradient @ narrow
            if needs_weight:
                part = gradient.T @ rows  # (V, H)
                if grad_weight is None:
                    grad_weight = part.to(weight.dtype)
                else:
                    _accumulate(grad_weight, part)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad_output.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad_output.to(grad_weight.dtype))
        return grad_hidden, grad_weight, None, None, None, None


def _accumulate(total: Tensor, part: Tensor) -> None:
    """Add a `part` (V, H) of fewer bits to `total`, in place.

    A CPU first makes a copy of the part in the wider dtype: in blocks, it stays in the cache.
    """
    num_rows = len(total) if total.is_cuda else max(1, BLOCK_BYTES_CPU // (4 * total.shape[1]))
    blocks = (torch.split(tensor, num_rows) for tensor in (total, part))
    for total_rows, part_rows in zip(*blocks, strict=True):
        total_rows += part_rows


def _rows_per_chunk(hidden: Tensor, vocab_size: int) -> int:
    limit = CHUNK_BYTES_GPU if hidden.is_cuda else CHUNK_BYTES_CPU
    return max(128, limit // (4 * vocab_size) // 128 * 128)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    fused: bool = False,
) -> Tensor:
    """Sum over rows of the cross-entropy of `hidden @ weight.T` against `targets`.

    `hidden` (..., H), `weight` (V, H), `targets` (...); rows whose target is -100 are ignored.
    Products run in autocast's dtype where autocast is on; the softmax is always fp32. `z_loss`
    adds that multiple of the squared logsumexp (PaLM, section 5). `fused`: a GPU
    computes the softmax by compiled kernels.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    rows = hidden.reshape(-1, hidden.shape[-1])
    with torch.autocast(kind, enabled=False):
        total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows, weight, targets.reshape(-1), z_loss, dtype, fused
        )
    return total


class CausalLoss(nn.Module):
    """A causal model with a loss of its hidden states.

    Only this loss is ever compiled, never the model: what else reads the model has many shapes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.fuses_softmax = False
        self._states: Callable[..., Tensor] = causal_states

    def compile_layers(self) -> None:
        """Compile the layers for this loss, again for every shape of its rows."""
        self._states = torch.compile(causal_states, dynamic=False)

    def states(self, embedded: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """What the head reads (B, T, H), from `embedded` tokens (B, T, H).

        A text begins where `position_ids` (B, T) are 0, and attends to itself only.
        """
        return self._states(self.model.model, embedded, position_ids)

    def head_loss(self, hidden: Tensor, targets: Tensor, *, z_loss: float = 0.0) -> Tensor:
        """`linear_cross_entropy` with the model's head."""
        head = self.model.lm_head.weight
        return linear_cross_entropy(hidden, head, targets, z_loss=z_loss, fused=self.fuses_softmax)


def second_targets(labels: Tensor) -> Tensor:
    """The token after next (B, T), where a row has it and the next one is a target too.

    >>> second_targets(torch.tensor([[5, 6, IGNORED, 8, 9]])).tolist()
    [[6, -100, -100, 9, -100]]
    """
    targets = torch.full_like(labels, IGNORED)
    targets[:, :-1] = torch.where(labels[:, :-1] == IGNORED, IGNORED, labels[:, 1:])
    return targets


class NextTokenLoss(CausalLoss):
    """A causal model with its loss: rows of ids and targets in, the summed loss out.

    The caller divides by the number of targets of the whole step, so that the gradient does not
    depend on how the step is cut into micro-batches (transformers issue 35438).
    """

    def __init__(
        self, model: Any, *, z_loss: float = 0.0, second_token_weight: float = 0.0
    ) -> None:
        super().__init__(model)
        self.z_loss = z_loss
        self.second_token_weight = second_token_weight
        if second_token_weight:
            add_second_token(model)

    def forward(
        self, input_ids: Tensor, labels: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """Summed loss of a micro-batch: `input_ids` (B, T), `labels` (B, T) with -100 ignored."""
        hidden = self.hidden_states(input_ids, position_ids)
        loss = self.head_loss(hidden, labels, z_loss=self.z_loss)
        return loss + self.auxiliary(hidden, labels)

    def auxiliary(self, hidden: Tensor, labels: Tensor) -> Tensor | float:
        """The weighted loss of the token after next (second_token.py); 0 without one."""
        if not self.second_token_weight:
            return 0.0
        states = hidden + self.model.second_token(hidden)
        return self.second_token_weight * self.head_loss(states, second_targets(labels))

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor | None) -> Tensor:
        """What the head reads (B, T, H) for `input_ids` (B, T)."""
        embedded = self.model.model.embed_tokens(input_ids)  # (B, T, H)
        kind = input_ids.device.type
        if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16:
            # Autocast leaves embeddings and with them the whole residual stream in fp32: twice the
            # memory traffic, 2.4 % of a step on an H100 (bench/results). fp16's range is too small.
            embedded = embedded.to(torch.get_autocast_dtype(kind))
        return self.states(embedded, position_ids)
