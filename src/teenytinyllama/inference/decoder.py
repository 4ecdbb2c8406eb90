"""A Llama's forward pass for generation: what one gets instead of `model.generate`, and why.

The weights are those of the `LlamaForCausalLM`, laid out for reading: query, key and value in one
matrix, gate and up in another, and each head's two halves interleaved, so that a rotation is one
product of complex numbers. Keys and values go into memory set aside beforehand, one line per
conversation, so that conversations of different lengths share a step and may come and go.

On a CPU one new token costs one pass through all weights, and what `model.generate` loses there is
how the pass is made (bench/generation_speed.py measures it): for a single row of bfloat16 torch's
oneDNN kernels reach half of the memory's speed and the plain ones nearly all of it; for several
rows oneDNN needs the weights rearranged beforehand; attention of one token over bfloat16 keys is
faster in fp32; and with some 400 small operations a token each one that is saved counts. Norms and
rotations are therefore rounded once, at their end, where transformers rounds at every operation.
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

POSITIONS_PER_GROWTH = 32
ROWS_ARRANGED_FOR = 16  # oneDNN chooses the order of weights for about so many rows


class Matrix:
    """A weight matrix (out, in) and the fastest way to multiply a few rows by it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._across = weight.t()
        self._arranged: Tensor | None = None
        self._can_arrange = (
            weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        )

    def apply(self, x: Tensor) -> Tensor:
        """`x @ weight.T` of rows (N, in)."""
        return torch.mm(x, self._across)

    def apply_to_rows(self, x: Tensor) -> Tensor:
        """The same for several rows of one token each.

        On a CPU the weights are kept rearranged from the first such step on: memory doubles,
        and a step of 16 rows takes about 0.6 of the time.
        """
        if not self._can_arrange:
            return self.apply(x)
        if self._arranged is None:
            self._arranged = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS_ARRANGED_FOR)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._arranged, None, "none", [], ""
        )
        return product


class Layer(NamedTuple):
    """One decoder layer's weights."""

    attention_norm: Tensor  # (C,)
    qkv: Matrix  # ((H + 2 K) D, C)
    attention_out: Matrix  # (C, H D)
    mlp_norm: Tensor  # (C,)
    gate_up: Matrix  # (2 I, C)
    down: Matrix  # (C, I)


class Memory:
    """Keys and values of the conversations in flight, and how many tokens each holds.

    Rows 0 to `len(lengths) - 1` are in use; they stay side by side, so that a step reads one
    block. Rows and positions are added as needed, positions up to the model's context: what is
    read in a step is then nearly all of the memory, and nearly all of it is needed.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.max_positions = decoder.max_positions
        shape = (len(decoder.layers), 0, decoder.num_key_value_heads, 0, decoder.head_size)
        self.keys = torch.zeros(shape, dtype=decoder.dtype, device=decoder.device)
        self.values = torch.zeros_like(self.keys)
        self.lengths: list[int] = []

    def reserve(self, num_rows: int, num_positions: int) -> None:
        """Make space for this many rows of this many positions; what is held stays."""
        held_rows, held_positions = self.keys.shape[1], self.keys.shape[3]
        if num_rows <= held_rows and num_positions <= held_positions:
            return
        steps = -(-num_positions // POSITIONS_PER_GROWTH)
        positions = max(held_positions, min(steps * POSITIONS_PER_GROWTH, self.max_positions))
        more = (0, 0, 0, positions - held_positions, 0, 0, 0, max(num_rows - held_rows, 0))
        # Both at once: Ctrl-C in between would leave one longer than the other.
        self.keys, self.values = functional.pad(self.keys, more), functional.pad(self.values, more)

    @torch.inference_mode()
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
        self.embedding = model.model.embed_tokens.weight.detach().to(self.dtype)  # (V, C)
        tied = head.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        self.head = Matrix(self.embedding if tied else head.to(self.dtype))  # (V, C)
        self.norm = model.model.norm.weight.detach().to(self.dtype)
        self.layers = [self._lay_out(layer) for layer in model.model.layers]
        self.rotations = self._rotations(model)  # (N, D / 2), complex

    def _lay_out(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp

        def joined(*parts: Any) -> Tensor:
            weights = [part.weight.detach().to(self.dtype) for part in parts]
            return weights[0] if len(weights) == 1 else torch.cat(weights)

        return Layer(
            joined(layer.input_layernorm),
            Matrix(
                torch.cat(
                    (
                        _interleaved(joined(attention.q_proj), self.num_heads),
                        _interleaved(joined(attention.k_proj), self.num_key_value_heads),
                        joined(attention.v_proj),
                    )
                )
            ),
            Matrix(joined(attention.o_proj)),
            joined(layer.post_attention_layernorm),
            Matrix(joined(mlp.gate_proj, mlp.up_proj)),
            Matrix(joined(mlp.down_proj)),
        )

    def _rotations(self, model: LlamaForCausalLM) -> Tensor:
        """What each position's pairs are multiplied by, from the model's own rotary module."""
        positions = torch.arange(self.max_positions, device=self.device)[None]
        half = self.head_size // 2
        with torch.no_grad():
            cos, sin = model.model.rotary_emb(self.norm.float(), positions)  # (1, N, D)
        return torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())

    def new_memory(self) -> Memory:
        """Empty memory, for any number of conversations at once."""
        return Memory(self)

    @torch.inference_mode()
    def read(self, memory: Memory, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Start a conversation with each prompt in the next free rows.

        Gives the logits of each one's next token, (R, V) in fp32. Shorter prompts are padded on
        the right: no later token looks there, and the padding is overwritten.
        """
        first = len(memory.lengths)
        sizes = [len(prompt) for prompt in prompts]
        width = max(sizes)
        memory.reserve(first + len(prompts), width)
        padded = [[*prompt, *([0] * (width - len(prompt)))] for prompt in prompts]
        ids = torch.tensor(padded, device=self.device)  # (R, T)
        hidden = self._layers(ids, memory, first, [0] * len(prompts))
        memory.lengths.extend(sizes)
        return self._logits(hidden[[row * width + size - 1 for row, size in enumerate(sizes)]])

    @torch.inference_mode()
    def extend(self, memory: Memory, row: int, ids: Sequence[int]) -> Tensor:
        """Go on with one conversation by several tokens at once; the next one's logits, (1, V)."""
        start = memory.lengths[row]
        memory.reserve(row + 1, start + len(ids))
        hidden = self._layers(torch.tensor([list(ids)], device=self.device), memory, row, [start])
        memory.lengths[row] = start + len(ids)
        return self._logits(hidden[-1:])

    @torch.inference_mode()
    def step(self, memory: Memory, ids: Sequence[int]) -> Tensor:
        """Append one token to every conversation; the logits of the next ones, (R, V) in fp32."""
        starts = list(memory.lengths)
        memory.reserve(len(starts), max(starts) + 1)
        with _plain_kernels(len(ids) == 1 and self.device.type == "cpu"):
            tokens = torch.tensor(ids, device=self.device)[:, None]  # (R, 1)
            hidden = self._layers(tokens, memory, 0, starts)
            memory.lengths = [start + 1 for start in starts]
            return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits (R, V) in fp32 of one hidden state (R, C) per row."""
        hidden = self._normed(hidden, self.norm)
        apply = Matrix.apply if len(hidden) == 1 else Matrix.apply_to_rows
        return apply(self.head, hidden).float()

    def _normed(self, hidden: Tensor, gain: Tensor) -> Tensor:
        return functional.rms_norm(hidden, gain.shape, gain, self.epsilon)

    def _layers(self, ids: Tensor, memory: Memory, first: int, starts: list[int]) -> Tensor:
        """All layers on new tokens (R, T) of rows `first` onwards; hidden states (R T, C)."""
        num_rows, width = ids.shape
        place = Place(self, memory, first, starts, width)
        apply = Matrix.apply_to_rows if width == 1 and num_rows > 1 else Matrix.apply
        turning = self.num_heads + self.num_key_value_heads
        heads = (num_rows, width, turning + self.num_key_value_heads, self.head_size)
        hidden: Tensor = self.embedding[ids.flatten()]  # (R T, C)
        for number, layer in enumerate(self.layers):
            x = apply(layer.qkv, self._normed(hidden, layer.attention_norm)).view(heads)
            qk = place.turn(x[:, :, :turning])
            place.write(number, qk[:, :, self.num_heads :], x[:, :, turning:])
            mixed = place.attend(number, qk[:, :, : self.num_heads])  # (R T, H D)
            hidden = hidden + apply(layer.attention_out, mixed)
            both = apply(layer.gate_up, self._normed(hidden, layer.mlp_norm))
            gate, up = both.chunk(2, -1)
            hidden = hidden + apply(layer.down, functional.silu(gate).mul_(up))
        return hidden


def _interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a query or key matrix with the partners of a rotation side by side in each head.

    >>> _interleaved(torch.arange(8)[:, None], num_heads=2).flatten().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    rows, columns = weight.shape
    halves = weight.view(num_heads, 2, rows // num_heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


class Place:
    """Where a pass's new tokens stand: their rotation, where they are written, what they see."""

    def __init__(
        self, decoder: Decoder, memory: Memory, first: int, starts: list[int], width: int
    ) -> None:
        device = decoder.device
        self.starts = starts
        self.end = max(starts) + width
        self.together = len(set(starts)) == 1
        self.enable_gqa = decoder.num_heads != decoder.num_key_value_heads
        self.dtype = decoder.dtype
        self.wide_rows = device.type == "cpu" and decoder.dtype != torch.float32 and width == 1
        self.is_causal = self.together and starts[0] == 0 and width > 1
        self.mask: Tensor | None = None  # (R, 1, T, N), true where a position is seen
        # Keys and values of these rows by layer, each (R, K, N, D). Cut for all layers at once:
        # each view of its own costs as much as a small product.
        rows = slice(first, first + len(starts))
        held = (memory.keys[:, rows], memory.values[:, rows])
        self.held = [part.unbind(0) for part in held]
        self.read = [part[:, :, :, : self.end].unbind(0) for part in held]
        self.written = [part[:, :, :, starts[0] : self.end].unbind(0) for part in held]
        new = torch.arange(width, device=device)
        self.positions = torch.tensor(starts, device=device)[:, None] + new  # (R, T)
        self.lines = torch.arange(len(starts), device=device)[:, None]  # (R, 1)
        if self.together:
            self.rotations = decoder.rotations[starts[0] : self.end, None]  # (T, 1, D / 2)
        else:
            self.rotations = decoder.rotations[self.positions][:, :, None]  # (R, T, 1, D / 2)
        if not self.is_causal and (width > 1 or not self.together):
            seen = torch.arange(self.end, device=device)
            self.mask = seen <= self.positions[:, None, :, None]

    def turn(self, qk: Tensor) -> Tensor:
        """Queries and keys (R, T, H + K, D) turned by their positions, in fp32."""
        pairs = torch.view_as_complex(
            qk.float().view(*qk.shape[:-1], -1, 2)
        )  # (R, T, H + K, D / 2)
        return torch.view_as_real(pairs * self.rotations).flatten(-2)

    def write(self, layer: int, *new: Tensor) -> None:
        """Put a layer's keys and values of the new tokens, (R, T, K, D) each, where they belong."""
        for part, rows in enumerate(new):
            if self.together:
                self.written[part][layer].copy_(rows.transpose(1, 2))
            else:
                self.held[part][layer][self.lines, :, self.positions] = rows.to(self.dtype)

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Attention of the new tokens' queries (R, T, H, D) over all that is held: (R T, H D)."""
        num_rows, width = queries.shape[:2]
        if self.wide_rows and num_rows > 1:
            return self._attend_in_rows(queries, *(part[layer] for part in self.held))
        kind = torch.float32 if self.wide_rows else self.dtype
        keys, values = (part[layer].to(kind) for part in self.read)
        mixed = functional.scaled_dot_product_attention(
            queries.transpose(1, 2).to(kind),  # (R, H, T, D)
            keys,
            values,
            attn_mask=self.mask,
            is_causal=self.is_causal,
            enable_gqa=self.enable_gqa,
        )
        return mixed.transpose(1, 2).reshape(num_rows * width, -1).to(self.dtype)

    def _attend_in_rows(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same for one token of several rows: products of bfloat16, softmax in fp32.

        Keys and values are read to the end of the memory: cutting them off would copy them.
        """
        num_rows, num_kv_heads, end, size = keys.shape  # (R, K, N, D)
        queries = queries.to(self.dtype)
        groups = queries.reshape(num_rows * num_kv_heads, -1, size)  # (R K, H / K, D)
        # This order of the factors: the other takes twice as long (EXPERIMENTS.md).
        scores = torch.bmm(groups, keys.flatten(0, 1).transpose(1, 2))  # (R K, H / K, N)
        scores = scores.float() * size**-0.5
        unseen = torch.arange(end) > self.positions  # (R, N)
        by_row = scores.view(num_rows, num_kv_heads, -1, end)
        by_row.masked_fill_(unseen[:, None, None], -torch.inf)
        weights = scores.softmax(-1).to(self.dtype)  # the last axis: others take 5 times as long
        mixed = torch.bmm(weights, values.flatten(0, 1))  # (R K, H / K, D)
        return mixed.view(num_rows, -1)


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


def check_supported(config: object) -> None:
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
