"""Next-token loss that never holds all logits.

A batch of 32,768 tokens over 32,000 pieces has 4 GB of fp32 logits, and their gradient the same
again. Here the head's product, the softmax and both gradients are made chunk by chunk in the
forward pass; the backward pass only scales them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from teenytinyllama.training.cpu import kernels
from teenytinyllama.training.cpu.kernels import OverRows
from teenytinyllama.training.cpu.layers import LeanLinear

# N rows, H hidden, V vocabulary
IGNORED = -100
CHUNK_BYTES_CPU = 64 * 1024 * 1024
CHUNK_BYTES_GPU = 1024 * 1024 * 1024
BLOCK_BYTES_CPU = 1024 * 1024


def _softmax_gradient(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Summed loss of some rows and its gradient by the logits, in the logits' dtype."""
    wide = logits.float()  # (N, V)
    log_partition = torch.logsumexp(wide, dim=-1)  # (N,)
    counted = targets != IGNORED  # (N,)
    safe = targets.clamp_min(0)
    picked = wide.gather(-1, safe[:, None])[:, 0]
    loss = torch.where(counted, log_partition - picked, 0.0)
    slope = torch.ones_like(log_partition)
    if z_loss:
        loss = loss + torch.where(counted, z_loss * log_partition.square(), 0.0)
        slope = slope + 2 * z_loss * log_partition
    weight = torch.where(counted, slope, 0.0)
    gradient = torch.exp(wide - log_partition[:, None]) * weight[:, None]
    one = torch.where(counted, -1.0, 0.0)
    gradient = gradient.scatter_add(-1, safe[:, None], one[:, None])
    return loss.sum(), gradient.to(logits.dtype)


def _softmax_gradient_in_place(
    logits: Tensor, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The same for a CPU: the gradient takes the logits' place.

    Some rows at a time, so that the passes over them find them in the processor's cache, and one
    exponential for both the partition and the gradient.
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
        picked = wide.gather(-1, safe)
        partition = wide.sub_(highest).exp_().sum(-1, keepdim=True)
        log_partition = partition.log() + highest
        loss = log_partition - picked + z_loss * log_partition.square()
        total += (loss * counted).sum()
        slope = (1 + 2 * z_loss * log_partition) * counted
        wide.mul_(slope / partition).scatter_add_(-1, safe, -counted)
        block.copy_(wide)
    return total, logits


_compiled: Any = None


def _softmax_gradient_on(device: torch.device) -> Any:
    """The form for this device; a GPU's is fused: two passes over the logits, not seven."""
    global _compiled
    if device.type != "cuda":
        return _softmax_gradient_in_place
    if _compiled is None:
        _compiled = torch.compile(_softmax_gradient, dynamic=False)
    return _compiled


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        dtype: torch.dtype,
        over_rows: OverRows,
    ) -> Tensor:
        softmax_gradient = _softmax_gradient_on(hidden.device)
        narrow = weight.to(dtype)  # (V, H)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        by_hidden = torch.empty_like(hidden) if needs_hidden else None
        by_weight: Tensor | None = None
        total = hidden.new_zeros((), dtype=torch.float32)
        chunk = _rows_per_chunk(hidden, weight.shape[0])
        for start in range(0, hidden.shape[0], chunk):
            rows = hidden[start : start + chunk].to(dtype)  # (n, H)
            loss, gradient = softmax_gradient(
                rows @ narrow.T, targets[start : start + chunk], z_loss
            )
            total += loss
            if by_hidden is not None:
                by_hidden[start : start + chunk] = gradient @ narrow
            if needs_weight:
                part = gradient.T @ rows  # (V, H)
                if by_weight is None:
                    by_weight = part.to(weight.dtype)
                else:
                    _add(by_weight, part, over_rows)
        ctx.save_for_backward(by_hidden, by_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        by_hidden, by_weight = ctx.saved_tensors
        scaled_hidden = None if by_hidden is None else by_hidden * upstream.to(by_hidden.dtype)
        scaled_weight = None if by_weight is None else by_weight.mul_(upstream.to(by_weight.dtype))
        return scaled_hidden, scaled_weight, None, None, None, None


def _add(total: Tensor, part: Tensor, over_rows: OverRows) -> None:
    """Add a `part` of fewer bits to `total`, in place.

    A CPU makes a wide copy of the part first: some rows at a time it stays in the cache.
    """
    if total.is_cuda:
        total += part
    else:
        over_rows(kernels.add, (total, part))


def _rows_per_chunk(hidden: Tensor, vocab_size: int) -> int:
    limit = CHUNK_BYTES_GPU if hidden.is_cuda else CHUNK_BYTES_CPU
    return max(128, limit // (4 * vocab_size) // 128 * 128)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    over_rows: OverRows = kernels.IN_BLOCKS,
) -> Tensor:
    """Sum over rows of the cross-entropy of `hidden @ weight.T` against `targets`.

    `hidden` (..., H), `weight` (V, H), `targets` (...); rows whose target is -100 count nothing.
    Products run in autocast's dtype where autocast is on; the softmax is always fp32. `z_loss`
    adds that multiple of the squared log-partition (PaLM, section 5). `over_rows` says how a CPU
    does what lies between the products.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    rows = hidden.reshape(-1, hidden.shape[-1])
    with torch.autocast(kind, enabled=False):
        total: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows, weight, targets.reshape(-1), z_loss, dtype, over_rows
        )
    return total


def head_loss(model: Any, hidden: Tensor, targets: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """`linear_cross_entropy` of a causal model's head, computed as its layers are."""
    head = model.lm_head
    over_rows = head.over_rows if isinstance(head, LeanLinear) else kernels.IN_BLOCKS
    return linear_cross_entropy(hidden, head.weight, targets, z_loss=z_loss, over_rows=over_rows)


class NextTokenLoss(nn.Module):
    """A causal model with its loss: rows of ids and targets in, the summed loss out.

    The caller divides by the number of targets of the whole step, so that a step's gradient does
    not depend on how it was cut into micro-batches (transformers issue 35438).
    """

    def __init__(self, model: Any, *, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.z_loss = z_loss

    def forward(
        self, input_ids: Tensor, labels: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """Summed loss of a micro-batch: `input_ids` (B, T), `labels` (B, T) with -100 ignored.

        `position_ids` (B, T) that fall back to 0 isolate documents: attention then sees only its
        own. This needs `use_cache=False`: with a cache the second document sees the first.
        """
        embedded = self.model.model.embed_tokens(input_ids)  # (B, T, H)
        kind = input_ids.device.type
        if torch.is_autocast_enabled(kind):
            # Autocast leaves embeddings in fp32, and with them the whole residual stream: twice
            # the memory traffic, 2.4 % of a step on an H100 (bench/results).
            embedded = embedded.to(torch.get_autocast_dtype(kind))
        hidden = self.model.model(
            inputs_embeds=embedded, position_ids=position_ids, use_cache=False
        ).last_hidden_state  # (B, T, H)
        return head_loss(self.model, hidden, labels, z_loss=self.z_loss)
