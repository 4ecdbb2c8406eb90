"""A Llama's forward pass for generation, faster than `model.generate`.

The weights are those of the `transformers` model, laid out for inference: query, key and value in
one matrix, gate and up in another, and each head's two halves interleaved, so that a rotation is
one product of complex numbers. One KV cache holds many conversations, a row each: conversations of
different lengths share a step, and may join and leave between steps.

On a CPU one new token costs one pass through all weights, and what `model.generate` loses there is
how the pass is made (bench/generation_speed.py measures it): for a single row of bfloat16 torch's
oneDNN kernels reach half of the memory's bandwidth and the plain ones nearly all of it; for several
rows oneDNN needs the weights packed beforehand; attention of one token over bfloat16 keys is
faster in fp32; and with some 400 small operations a token each one that is saved counts. Norms and
rotations are therefore rounded once, at their end, where transformers rounds at every operation.
"""

# R conversations (rows), T new tokens of each, N positions, C hidden size, I intermediate size,
# H query heads, K key-value heads, D head size, V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from teenytinyllama import hardware
from teenytinyllama.errors import UserError
from teenytinyllama.inference.kv_cache import KVCache, StepLayout
from teenytinyllama.modeling.loading import CAUSAL_MODELS, CausalModel

ROWS_PACKED_FOR = 16  # oneDNN chooses the layout of packed weights for about this many rows


class PackedLinear:
    """A weight matrix (out, in) and the fastest way to multiply a few rows by it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._transposed = weight.t()
        self._packed: Tensor | None = None
        self._can_pack = (
            weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
            and (weight.dtype != torch.bfloat16 or hardware.multiplies_bfloat16(weight.device))
        )

    def apply(self, x: Tensor) -> Tensor:
        """`x @ weight.T` of rows (N, in)."""
        return torch.mm(x, self._transposed)

    def apply_packed(self, x: Tensor) -> Tensor:
        """The same for several rows of one token each.

        On a CPU the first call packs the weights and keeps them beside the others: memory doubles,
        and a step of 16 rows takes about 0.6 of the time.
        """
        if not self._can_pack:
            return self.apply(x)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS_PACKED_FOR)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return product


class DecoderLayer(NamedTuple):
    """One layer's weights."""

    attention_norm: Tensor  # (C,)
    qkv: PackedLinear  # ((H + 2 K) D, C)
    qk_gain: Tensor | None  # (H + K, D) in fp32, of a model with QK-norm
    attention_out: PackedLinear  # (C, H D)
    mlp_norm: Tensor  # (C,)
    gate_up: PackedLinear  # (2 I, C)
    down: PackedLinear  # (C, I)


class Decoder:
    """A model's weights, ready to prefill prompts and to decode one token at a time.

    It copies the large matrices: release the model afterwards where memory is short. Raises
    UserError for a model that this forward pass does not compute.
    """

    def __init__(self, model: CausalModel, *, dtype: torch.dtype | None = None) -> None:
        config = model.config
        check_supported(config)
        head = model.lm_head.weight.detach()
        self.device: torch.device = head.device
        self.dtype: torch.dtype = dtype or head.dtype
        self.num_heads = int(config.num_attention_heads)
        self.num_key_value_heads = int(config.num_key_value_heads)
        self.head_size = int(getattr(config, "head_dim", 0) or config.hidden_size // self.num_heads)
        self.max_positions = int(config.max_position_embeddings)
        self.vocab_size = int(config.vocab_size)
        self.epsilon = float(config.rms_norm_eps)
        self.has_qk_norm = config.model_type == "qwen3"
        self.embedding = model.model.embed_tokens.weight.detach().to(self.dtype)  # (V, C)
        tied = head.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        self.head = PackedLinear(self.embedding if tied else head.to(self.dtype))  # (V, C)
        self.norm = model.model.norm.weight.detach().to(self.dtype)
        self.layers = [self._lay_out(layer) for layer in model.model.layers]
        self.rotations = self._rotations(model)  # (N, D / 2), complex

    def _lay_out(self, layer: Any) -> DecoderLayer:
        attention, mlp = layer.self_attn, layer.mlp

        def joined(*parts: Any) -> Tensor:
            weights = [part.weight.detach().to(self.dtype) for part in parts]
            return weights[0] if len(weights) == 1 else torch.cat(weights)

        query = _interleaved(joined(attention.q_proj), self.num_heads)
        key = _interleaved(joined(attention.k_proj), self.num_key_value_heads)
        return DecoderLayer(
            joined(layer.input_layernorm),
            PackedLinear(torch.cat((query, key, joined(attention.v_proj)))),
            self._qk_gain(attention) if self.has_qk_norm else None,
            PackedLinear(joined(attention.o_proj)),
            joined(layer.post_attention_layernorm),
            PackedLinear(joined(mlp.gate_proj, mlp.up_proj)),
            PackedLinear(joined(mlp.down_proj)),
        )

    def _qk_gain(self, attention: Any) -> Tensor:
        """The gains of the norms of queries and keys, one row for each head."""
        gains = [norm.weight.detach().float() for norm in (attention.q_norm, attention.k_norm)]
        numbers = (self.num_heads, self.num_key_value_heads)
        rows = [
            _interleaved(gain[:, None], 1).T.expand(number, -1)
            for gain, number in zip(gains, numbers, strict=True)
        ]
        return torch.cat(rows)

    def _rotations(self, model: CausalModel) -> Tensor:
        """The factor of each position's pairs, from the model's own rotary module."""
        positions = torch.arange(self.max_positions, device=self.device)[None]
        half = self.head_size // 2
        with torch.no_grad():
            cos, sin = model.model.rotary_emb(self.norm.float(), positions)  # (1, N, D)
        return torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())

    def new_cache(self) -> KVCache:
        """An empty KV cache for any number of conversations."""
        shape = (len(self.layers), self.num_key_value_heads, self.max_positions, self.head_size)
        return KVCache(shape, self.dtype, self.device)

    @torch.inference_mode()
    def prefill(self, cache: KVCache, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read each prompt into the next free row of the cache.

        Returns the logits of each row's next token, (R, V) in fp32. Shorter prompts are padded on
        the right: no later token attends to the padding, and it is overwritten.
        """
        first = len(cache.lengths)
        sizes = [len(prompt) for prompt in prompts]
        width = max(sizes)
        cache.reserve(first + len(prompts), width)
        padded = [[*prompt, *([0] * (width - len(prompt)))] for prompt in prompts]
        ids = torch.tensor(padded, device=self.device)  # (R, T)
        hidden = self._forward(ids, cache, first, [0] * len(prompts))
        cache.lengths.extend(sizes)
        return self._logits(hidden[[row * width + size - 1 for row, size in enumerate(sizes)]])

    @torch.inference_mode()
    def extend(self, cache: KVCache, row: int, ids: Sequence[int]) -> Tensor:
        """Append several tokens to one row; the logits of its next token, (1, V) in fp32."""
        start = cache.lengths[row]
        cache.reserve(row + 1, start + len(ids))
        hidden = self._forward(torch.tensor([list(ids)], device=self.device), cache, row, [start])
        cache.lengths[row] = start + len(ids)
        return self._logits(hidden[-1:])

    @torch.inference_mode()
    def decode_step(self, cache: KVCache, ids: Sequence[int]) -> Tensor:
        """Append one token to every row; the logits of the next ones, (R, V) in fp32."""
        starts = list(cache.lengths)
        cache.reserve(len(starts), max(starts) + 1)
        with _without_onednn(len(ids) == 1 and self.device.type == "cpu"):
            tokens = torch.tensor(ids, device=self.device)[:, None]  # (R, 1)
            hidden = self._forward(tokens, cache, 0, starts)
            cache.lengths = [start + 1 for start in starts]
            return self._logits(hidden)

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """The mean of a text's last hidden states, of length 1; (C,) in fp32."""
        cache = self.new_cache()
        cache.reserve(1, len(ids))
        hidden = self._forward(torch.tensor([list(ids)], device=self.device), cache, 0, [0])
        mean = self._rms_norm(hidden, self.norm).float().mean(0)
        return functional.normalize(mean, dim=0)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits (R, V) in fp32 of one hidden state (R, C) per row."""
        hidden = self._rms_norm(hidden, self.norm)
        apply = PackedLinear.apply if len(hidden) == 1 else PackedLinear.apply_packed
        return apply(self.head, hidden).float()

    def _rms_norm(self, hidden: Tensor, gain: Tensor) -> Tensor:
        return functional.rms_norm(hidden, gain.shape, gain, self.epsilon)

    def _forward(self, ids: Tensor, cache: KVCache, first: int, starts: list[int]) -> Tensor:
        """All layers on new tokens (R, T) of rows `first` onwards; hidden states (R T, C)."""
        num_rows, width = ids.shape
        layout = StepLayout(cache, self.rotations, first, starts, width, self.num_heads)
        apply = PackedLinear.apply_packed if width == 1 and num_rows > 1 else PackedLinear.apply
        num_rotated = self.num_heads + self.num_key_value_heads
        heads = (num_rows, width, num_rotated + self.num_key_value_heads, self.head_size)
        hidden: Tensor = self.embedding[ids.flatten()]  # (R T, C)
        for number, layer in enumerate(self.layers):
            x = apply(layer.qkv, self._rms_norm(hidden, layer.attention_norm)).view(heads)
            qk = x[:, :, :num_rotated]
            if layer.qk_gain is not None:
                normed = functional.rms_norm(qk.float(), qk.shape[-1:], eps=self.epsilon)
                qk = normed * layer.qk_gain
            qk = layout.rotate(qk)
            layout.write(number, qk[:, :, self.num_heads :], x[:, :, num_rotated:])
            mixed = layout.attend(number, qk[:, :, : self.num_heads])  # (R T, H D)
            hidden = hidden + apply(layer.attention_out, mixed)
            both = apply(layer.gate_up, self._rms_norm(hidden, layer.mlp_norm))
            gate, up = both.chunk(2, -1)
            hidden = hidden + apply(layer.down, functional.silu(gate).mul_(up))
        return hidden


def _interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a query or key matrix with the two partners of each rotation side by side.

    >>> _interleaved(torch.arange(8)[:, None], num_heads=2).flatten().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    rows, columns = weight.shape
    halves = weight.view(num_heads, 2, rows // num_heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


@contextmanager
def _without_onednn(wanted: bool) -> Iterator[None]:
    """Torch's own matrix-vector kernels in place of oneDNN's, where `wanted`."""
    backend: Any = torch.backends.mkldnn
    before = backend.enabled
    if wanted:
        backend.enabled = False
    try:
        yield
    finally:
        backend.enabled = before


def check_supported(config: object) -> None:
    """Raise UserError for a model that this forward pass does not compute."""
    kind = str(getattr(config, "model_type", "unknown"))
    if kind not in CAUSAL_MODELS:
        known = " and ".join(f'"{name}"' for name in CAUSAL_MODELS)
        raise _unsupported(f'model_type is "{kind}", this package generates with {known}')
    if getattr(config, "use_sliding_window", False):
        raise _unsupported("use_sliding_window is true; models of this package see all tokens")
    for name in ("attention_bias", "mlp_bias"):
        if getattr(config, name, False):
            raise _unsupported(f"{name} is true; models of this package have no biases")
    activation = str(getattr(config, "hidden_act", "silu"))
    if activation != "silu":
        raise _unsupported(f'hidden_act is "{activation}", expected "silu"')


def _unsupported(what: str) -> UserError:
    return UserError("model-unsupported", "config.json", what, "use transformers.generate for it")
