"""A Llama's forward pass for generation: what one gets instead of `model.generate`, and why.

The weights are those of the `LlamaForCausalLM`, laid out for reading: query, key and value in one
matrix, gate and up in another. Keys and values go into memory set aside beforehand, one line per
conversation, so that conversations of different lengths share a step and may come and go.

On a CPU one new token costs one pass through all weights. Torch's oneDNN kernels reach half of
the memory's speed there for a single row of bfloat16, the plain ones nearly all of it: that row is
computed without oneDNN (bench/generation_speed.py measures it).
"""

# R conversations (rows), T new tokens of each, N positions in memory, C hidden size,
# H query heads, K key-value heads, D head size, V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from teenytinyllama.errors import UserError

POSITIONS_PER_GROWTH = 256


class Layer(NamedTuple):
    """One decoder layer's weights."""

    attention_norm: Tensor  # (C,)
    qkv: Tensor  # ((H + 2 K) D, C)
    attention_out: Tensor  # (C, H D)
    mlp_norm: Tensor  # (C,)
    gate_up: Tensor  # (2 I, C)
    down: Tensor  # (C, I)


class Memory:
    """Keys and values of the conversations in flight, and how many tokens each holds.

    Rows 0 to `len(lengths) - 1` are in use; they stay side by side, so that a step reads one
    block. Room for positions grows as needed, up to `max_positions`.
    """

    def __init__(self, decoder: Decoder, num_rows: int, num_positions: int) -> None:
        self.max_positions = decoder.max_positions
        shape = (
            len(decoder.layers),
            num_rows,
            decoder.num_key_value_heads,
            min(num_positions, self.max_positions),
            decoder.head_size,
        )
        self.keys = torch.zeros(shape, dtype=decoder.dtype, device=decoder.device)
        self.values = torch.zeros_like(self.keys)
        self.lengths: list[int] = []

    def reserve(self, num_positions: int) -> None:
        """Make room for this many positions per row; what is held stays."""
        held = self.keys.shape[3]
        if num_positions <= held:
            return
        more = max(num_positions - held, POSITIONS_PER_GROWTH)
        more = min(more, self.max_positions - held)
        self.keys = functional.pad(self.keys, (0, 0, 0, more))
        self.values = functional.pad(self.values, (0, 0, 0, more))

    def drop(self, row: int) -> None:
        """Forget one conversation; the last one takes its row."""
        last = len(self.lengths) - 1
        if row != last:
            n = self.lengths[last]
            self.keys[:, row, :, :n] = self.keys[:, last, :, :n]
            self.values[:, row, :, :n] = self.values[:, last, :, :n]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def cut(self, row: int, length: int) -> None:
        """Forget what a conversation holds after its first `length` tokens."""
        self.lengths[row] = min(length, self.lengths[row])


class Decoder:
    """The weights of one model, ready to read a prompt and to go on one token at a time.

    It holds copies of the large matrices: let go of the model afterwards where memory is short.
    """

    def __init__(self, model: LlamaForCausalLM, *, dtype: torch.dtype | None = None) -> None:
        config = model.config
        _check_supported(config)
        head = model.lm_head.weight.detach()
        self.device: torch.device = head.device
        self.dtype: torch.dtype = dtype or head.dtype
        self.num_heads = int(config.num_attention_heads)
        self.num_key_value_heads = int(config.num_key_value_heads)
        self.head_size = int(getattr(config, "head_dim", 0) or config.hidden_size // self.num_heads)
        self.max_positions = int(config.max_position_embeddings)
        self.vocab_size = int(config.vocab_size)
        self.epsilon = float(config.rms_norm_eps)
        self.embedding = model.model.embed_tokens.weight.detach().to(self.dtype)  # (V, C)
        tied = head.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        self.head = self.embedding if tied else head.to(self.dtype)  # (V, C)
        self.norm = model.model.norm.weight.detach().to(self.dtype)
        self.layers = [self._lay_out(layer) for layer in model.model.layers]
        self.cos, self.sin = self._rotations(model)  # (N, D)
        self.enable_gqa = self.num_heads != self.num_key_value_heads

    def _lay_out(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp

        def joined(*parts: Any) -> Tensor:
            weights = [part.weight.detach().to(self.dtype) for part in parts]
            return weights[0] if len(weights) == 1 else torch.cat(weights)

        return Layer(
            joined(layer.input_layernorm),
            joined(attention.q_proj, attention.k_proj, attention.v_proj),
            joined(attention.o_proj),
            joined(layer.post_attention_layernorm),
            joined(mlp.gate_proj, mlp.up_proj),
            joined(mlp.down_proj),
        )

    def _rotations(self, model: LlamaForCausalLM) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of every position, from the model's own rotary module."""
        positions = torch.arange(self.max_positions, device=self.device)[None]
        with torch.no_grad():
            cos, sin = model.model.rotary_emb(self.norm, positions)
        half = self.head_size // 2
        sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
        return cos[0].to(self.dtype).contiguous(), sin.to(self.dtype).contiguous()

    def new_memory(self, num_rows: int, num_positions: int = POSITIONS_PER_GROWTH) -> Memory:
        """Empty memory for at most `num_rows` conversations at once."""
        return Memory(self, num_rows, num_positions)

    @torch.inference_mode()
    def read(self, memory: Memory, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Start a conversation with each prompt in the next free rows.

        Gives the logits of each one's next token, (R, V) in fp32. Shorter prompts are padded on
        the right: no later token looks there, and the padding is overwritten.
        """
        first = len(memory.lengths)
        sizes = [len(prompt) for prompt in prompts]
        width = max(sizes)
        memory.reserve(width)
        padded = [[*prompt, *([0] * (width - len(prompt)))] for prompt in prompts]
        ids = torch.tensor(padded, device=self.device)  # (R, T)
        hidden = self._layers(ids, memory, first, [0] * len(prompts))
        memory.lengths.extend(sizes)
        last = hidden[torch.arange(len(sizes)), [size - 1 for size in sizes]]  # (R, C)
        return self._logits(last)

    @torch.inference_mode()
    def extend(self, memory: Memory, row: int, ids: Sequence[int]) -> Tensor:
        """Go on with one conversation by several tokens at once; the next one's logits, (1, V)."""
        start = memory.lengths[row]
        memory.reserve(start + len(ids))
        hidden = self._layers(torch.tensor([list(ids)], device=self.device), memory, row, [start])
        memory.lengths[row] = start + len(ids)
        return self._logits(hidden[:, -1])

    @torch.inference_mode()
    def step(self, memory: Memory, ids: Sequence[int]) -> Tensor:
        """Append one token to every conversation; the logits of the next ones, (R, V) in fp32."""
        starts = list(memory.lengths)
        memory.reserve(max(starts) + 1)
        with _plain_kernels(len(ids) == 1 and self.device.type == "cpu"):
            tokens = torch.tensor(ids, device=self.device)[:, None]  # (R, 1)
            hidden = self._layers(tokens, memory, 0, starts)
            memory.lengths = [start + 1 for start in starts]
            return self._logits(hidden[:, -1])

    def _logits(self, hidden: Tensor) -> Tensor:
        hidden = self._normed(hidden, self.norm)
        return functional.linear(hidden, self.head).float()

    def _normed(self, hidden: Tensor, gain: Tensor) -> Tensor:
        wide = hidden.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        normed: Tensor = gain * (wide * scale).to(self.dtype)
        return normed

    def _layers(self, ids: Tensor, memory: Memory, first: int, starts: list[int]) -> Tensor:
        """All layers on new tokens (R, T) of rows `first` onwards; hidden states (R, T, C)."""
        num_rows, width = ids.shape
        rows = slice(first, first + num_rows)
        end = max(starts) + width
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(
            width, device=self.device
        )  # (R, T)
        together = len(set(starts)) == 1
        if together:
            cos, sin = self.cos[starts[0] : end, None], self.sin[starts[0] : end, None]  # (T, 1, D)
        else:
            last = self.max_positions - 1
            cos = self.cos[positions.clamp(max=last)][:, :, None]  # (R, T, 1, D)
            sin = self.sin[positions.clamp(max=last)][:, :, None]
        causal = together and starts[0] == 0 and width > 1
        mask = None
        if not causal and (width > 1 or not together):
            mask = torch.arange(end, device=self.device) <= positions[:, None, :, None]
        line = torch.arange(num_rows, device=self.device)[:, None] + first  # (R, 1)
        queries_keys = self.num_heads + self.num_key_value_heads
        half = self.head_size // 2
        hidden: Tensor = self.embedding[ids]  # (R, T, C)
        for number, layer in enumerate(self.layers):
            keys, values = memory.keys[number], memory.values[number]  # (R, K, N, D)
            x = functional.linear(self._normed(hidden, layer.attention_norm), layer.qkv)
            x = x.view(num_rows, width, -1, self.head_size)  # (R, T, H + 2 K, D)
            qk = x[:, :, :queries_keys]
            turned = torch.cat((qk[..., half:], qk[..., :half]), dim=-1)
            qk = qk * cos + turned * sin
            new_keys, new_values = qk[:, :, self.num_heads :], x[:, :, queries_keys:]
            if together:
                keys[rows, :, starts[0] : end] = new_keys.transpose(1, 2)
                values[rows, :, starts[0] : end] = new_values.transpose(1, 2)
            else:
                keys[line, :, positions] = new_keys
                values[line, :, positions] = new_values
            mixed = functional.scaled_dot_product_attention(
                qk[:, :, : self.num_heads].transpose(1, 2),  # (R, H, T, D)
                keys[rows, :, :end],
                values[rows, :, :end],
                attn_mask=mask,
                is_causal=causal,
                enable_gqa=self.enable_gqa,
            )
            mixed = mixed.transpose(1, 2).reshape(num_rows, width, -1)  # (R, T, H D)
            hidden = hidden + functional.linear(mixed, layer.attention_out)
            gate, up = functional.linear(self._normed(hidden, layer.mlp_norm), layer.gate_up).chunk(
                2, -1
            )
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down)
        return hidden


@contextmanager
def _plain_kernels(wanted: bool) -> Iterator[None]:
    """Torch's own matrix-vector kernels instead of oneDNN's, where `wanted`."""
    backend: Any = torch.backends.mkldnn
    before = backend.enabled
    if wanted:
        backend.enabled = False
    try:
        yield
    finally:
        backend.enabled = before


def _check_supported(config: object) -> None:
    """Raise UserError for what this forward pass does not compute."""
    kind = str(getattr(config, "model_type", "unknown"))
    if kind != "llama":
        raise _unsupported(f'model_type is "{kind}", this package generates with "llama"')
    for name in ("attention_bias", "mlp_bias"):
        if getattr(config, name, False):
            raise _unsupported(f"{name} is true; models of this package have no biases")
    activation = str(getattr(config, "hidden_act", "silu"))
    if activation != "silu":
        raise _unsupported(f'hidden_act is "{activation}", expected "silu"')


def _unsupported(what: str) -> UserError:
    return UserError("model-unsupported", "config.json", what, "use transformers.generate for it")
