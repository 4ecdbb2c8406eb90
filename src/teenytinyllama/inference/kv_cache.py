"""The KV cache: keys and values of the conversations in flight, and attention over them."""

# R conversations (rows), T new tokens of each, N positions in the cache, L layers,
# H query heads, K key-value heads, D head size

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

POSITIONS_PER_GROWTH = 32


class KVCache:
    """Keys and values of all rows, (L, R, K, N, D) each, and the number of tokens in each row.

    Rows 0 to `len(lengths) - 1` are in use; they stay adjacent, so that a step reads one block.
    Rows and positions are added as needed, positions up to the model's context: nearly all of
    what a step reads is then in use.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        """An empty cache. `shape` is (L, K, longest context, D)."""
        num_layers, num_heads, self.max_positions, head_size = shape
        empty = (num_layers, 0, num_heads, 0, head_size)
        self.keys = torch.zeros(empty, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.lengths: list[int] = []

    @property
    def max_row_bytes(self) -> int:
        """Bytes of one row of the longest context."""
        num_layers, _, num_heads, _, head_size = self.keys.shape
        numbers = 2 * num_layers * num_heads * head_size * self.max_positions
        return numbers * self.keys.element_size()

    def reserve(self, num_rows: int, num_positions: int) -> None:
        """Make space for this many rows of this many positions; the content stays."""
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
        """Remove one row; the last row moves into its place."""
        last = len(self.lengths) - 1
        if row != last:
            n = self.lengths[last]
            self.keys[:, row, :, :n] = self.keys[:, last, :, :n]
            self.values[:, row, :, :n] = self.values[:, last, :, :n]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """Fill one row with zeros."""
        self.keys[:, row] = 0
        self.values[:, row] = 0

    def truncate(self, row: int, length: int) -> None:
        """Remove what a row holds after its first `length` tokens."""
        self.lengths[row] = min(length, self.lengths[row])


class StepLayout:
    """Where the new tokens of one forward pass are: rotations, cache slots, attention mask.

    `width` new tokens in each of the rows `first_row` onwards, after the `starts` tokens that each
    row holds. `rotations` has the model's rotary factors by position, (positions, D / 2), complex.
    """

    def __init__(
        self,
        cache: KVCache,
        rotations: Tensor,
        first_row: int,
        starts: list[int],
        width: int,
        num_query_heads: int,
    ) -> None:
        device = cache.keys.device
        self.dtype = cache.keys.dtype
        self.end = max(starts) + width
        self.is_aligned = len(set(starts)) == 1
        self.enable_gqa = num_query_heads != cache.keys.shape[2]
        self.attends_in_fp32 = device.type == "cpu" and self.dtype != torch.float32 and width == 1
        self.is_causal = self.is_aligned and starts[0] == 0 and width > 1
        self.mask: Tensor | None = None  # (R, 1, T, N), true where a position is seen
        # Keys and values of these rows by layer, each (R, K, N, D). Cut for all layers at once:
        # each view of its own costs as much as a small product.
        rows = slice(first_row, first_row + len(starts))
        both = (cache.keys[:, rows], cache.values[:, rows])
        self.whole = [part.unbind(0) for part in both]
        self.filled = [part[:, :, :, : self.end].unbind(0) for part in both]
        self.new = [part[:, :, :, starts[0] : self.end].unbind(0) for part in both]
        offsets = torch.arange(width, device=device)
        self.positions = torch.tensor(starts, device=device)[:, None] + offsets  # (R, T)
        self.rows = torch.arange(len(starts), device=device)[:, None]  # (R, 1)
        if self.is_aligned:
            self.rotations = rotations[starts[0] : self.end, None]  # (T, 1, D / 2)
        else:
            self.rotations = rotations[self.positions][:, :, None]  # (R, T, 1, D / 2)
        if not self.is_causal and (width > 1 or not self.is_aligned):
            seen = torch.arange(self.end, device=device)
            self.mask = seen <= self.positions[:, None, :, None]

    def rotate(self, qk: Tensor) -> Tensor:
        """Rotary position embedding of queries and keys (R, T, H + K, D), in fp32."""
        pairs = torch.view_as_complex(
            qk.float().view(*qk.shape[:-1], -1, 2)
        )  # (R, T, H + K, D / 2)
        return torch.view_as_real(pairs * self.rotations).flatten(-2)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store a layer's keys and values of the new tokens, (R, T, K, D) each."""
        for part, rows in enumerate((keys, values)):
            if self.is_aligned:
                self.new[part][layer].copy_(rows.transpose(1, 2))
            else:
                self.whole[part][layer][self.rows, :, self.positions] = rows.to(self.dtype)

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Attention of the new tokens' queries (R, T, H, D) over the cache: (R T, H D)."""
        num_rows, width = queries.shape[:2]
        if self.attends_in_fp32 and num_rows > 1:
            return self._attend_batched(queries, *(part[layer] for part in self.whole))
        kind = torch.float32 if self.attends_in_fp32 else self.dtype
        keys, values = (part[layer].to(kind) for part in self.filled)
        mixed = functional.scaled_dot_product_attention(
            queries.transpose(1, 2).to(kind),  # (R, H, T, D)
            keys,
            values,
            attn_mask=self.mask,
            is_causal=self.is_causal,
            enable_gqa=self.enable_gqa,
        )
        return mixed.transpose(1, 2).reshape(num_rows * width, -1).to(self.dtype)

    def _attend_batched(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same for one token in each of several rows: bfloat16 products, softmax in fp32.

        Reads keys and values to the end of the cache: a cut would copy them.
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
