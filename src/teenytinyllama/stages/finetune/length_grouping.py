"""Examples to token ids, and ids to batches of similar length.

One text is `BOS text EOS`, a pair `BOS a EOS b EOS`. EOS ended every document in pre-training, so
the classifier reads the state where the model knows that a text is over. Batches are a pure
function of (seed, step): an epoch is shuffled, cut into groups of fifty batches, and sorted by
length inside each group, so that little is padded and the order stays random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.stages.finetune.labelled_dataset import Example
from teenytinyllama.training.data_order import permute

BATCHES_PER_GROUP = 50


@dataclass(frozen=True)
class EncodedExample:
    """One example as token ids, with the number of its label."""

    ids: tuple[int, ...]
    label: int
    was_cut: bool
    token_types: tuple[int, ...] = ()
    """Which text of a pair each token belongs to, for models that take it."""


def encode_with(encoder: TextEncoder, max_length: int) -> Callable[[Example], EncodedExample]:
    """An encoder of examples for our own models: at most `max_length` tokens with BOS and EOS."""

    def encode(example: Example) -> EncodedExample:
        parts = [encoder.encode(text) for text in example.texts]
        space = max_length - 1 - len(parts)
        whole = sum(map(len, parts))
        while sum(map(len, parts)) > space:
            # Cut the longest part first, so that both texts of a pair keep something.
            longest = max(range(len(parts)), key=lambda i: (len(parts[i]), i))
            others = sum(map(len, parts)) - len(parts[longest])
            second = max((len(p) for i, p in enumerate(parts) if i != longest), default=0)
            parts[longest] = parts[longest][: max(space - others, min(second, space // len(parts)))]
        ids = [encoder.bos_id]
        for part in parts:
            ids += [*part, encoder.eos_id]
        return EncodedExample(tuple(ids), example.label, sum(map(len, parts)) < whole)

    return encode


class LengthGroupedOrder:
    """Which examples make a step: random, of similar length, each once an epoch."""

    def __init__(self, lengths: Sequence[int], rows_per_step: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.rows_per_step = rows_per_step
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._batches_of_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; one of them may have fewer examples."""
        return -(-len(self.lengths) // self.rows_per_step)

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Numbers of the examples behind update `step`, counting from 0."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[inside]

    def _batches_of_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        total = len(self.lengths)
        places = np.arange(total, dtype=np.uint64)
        order = permute(places, total, self.seed, epoch).astype(np.int64)
        size = self.rows_per_step
        batches = []
        for start in range(0, total, size * BATCHES_PER_GROUP):
            group = order[start : start + size * BATCHES_PER_GROUP]
            # Stable: equal lengths keep their random order.
            group = group[np.argsort(-self.lengths[group], kind="stable")]
            batches += [group[at : at + size] for at in range(0, len(group), size)]
        # Sorted groups would end on short texts; the batches are shuffled again.
        numbers = np.arange(len(batches), dtype=np.uint64)
        mixed = permute(numbers, len(batches), self.seed + 1, epoch)
        return [batches[int(number)] for number in mixed]


def pad(rows: Sequence[EncodedExample], pad_id: int) -> dict[str, NDArray[Any]]:
    """`input_ids` (B, T) padded on the right to the longest, and `labels` (B,).

    With `token_type_ids` (B, T) where the rows have any.
    """
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), pad_id, np.int64)
    types = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = row.ids
        types[number, : len(row.token_types)] = row.token_types
    arrays = {"input_ids": ids, "labels": np.array([row.label for row in rows], np.int64)}
    return {**arrays, "token_type_ids": types} if rows[0].token_types else arrays
