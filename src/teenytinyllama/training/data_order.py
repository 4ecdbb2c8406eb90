"""Which sequences make step N: a pure function of (seed, step).

There is no state to save or replay. The order of an epoch is a keyed permutation computed for one
position at a time (a Feistel network with cycle walking), so that finding the rows of step one
million in an index of ten billion tokens costs microseconds and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6


def mix(values: NDArray[Any]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every input bit flips about half of the output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


def key_of(seed: int, number: int) -> NDArray[np.uint64]:
    """A 64-bit key (1,) of an epoch or a step."""
    start: NDArray[np.uint64] = np.full(1, (seed + 0x9E3779B97F4A7C15) % 2**64, np.uint64)
    return mix(mix(start) ^ np.full(1, number, np.uint64))


def permute(positions: NDArray[np.uint64], size: int, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Where a seeded shuffle of `range(size)` puts each position, computed without the shuffle.

    A bijection of [0, size) for every (seed, epoch).

    >>> first = permute(np.arange(7, dtype=np.uint64), 7, seed=1, epoch=0)
    >>> sorted(first.tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    with np.errstate(over="ignore"):
        keys = mix(key_of(seed, epoch) + np.arange(1, ROUNDS + 1, dtype=np.uint64))
        values = positions.copy()
        todo = np.ones(len(values), bool)
        # The network permutes a power of four; a value beyond `size` is permuted again.
        while todo.any():
            left, right = values[todo] >> half, values[todo] & mask
            for round_key in keys:
                left, right = right, left ^ (mix(right + round_key) & mask)
            values[todo] = (left << half) | right
            todo = values >= size
    return values


@dataclass(frozen=True)
class PhasedOrder:
    """Phase after phase, the rows of each in an order of its own, and none twice.

    A training of fewer rows reads the same share of every phase.
    """

    starts: tuple[int, ...]
    """First row of each phase, then the number of all rows; at least those of all steps."""
    num_steps: int
    rows_per_step: int
    seed: int

    @property
    def num_sequences(self) -> int:
        """Rows of all phases."""
        return self.starts[-1]

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Numbers of the `rows_per_step` sequences behind update `step`, counting from 0."""
        places = step * self.rows_per_step + np.arange(self.rows_per_step)
        num_rows = self.num_steps * self.rows_per_step
        bounds = [start * num_rows // self.num_sequences for start in self.starts]
        phases = np.searchsorted(bounds, places, side="right") - 1
        rows = np.empty(self.rows_per_step, np.int64)
        for phase in np.unique(phases):
            here, first = phases == phase, self.starts[phase]
            inside = (places[here] - bounds[phase]).astype(np.uint64)
            rows[here] = permute(inside, self.starts[phase + 1] - first, self.seed, int(phase))
            rows[here] += first
        return rows

    def epochs_at(self, step: int) -> float:
        """Passes over the rows after `step` updates, at most 1."""
        return step * self.rows_per_step / self.num_sequences


@dataclass(frozen=True)
class SequenceOrder:
    """An endless stream of sequence numbers: each epoch all of them, in a new order."""

    num_sequences: int
    rows_per_step: int
    seed: int
    numbers_through: bool = False
    """Rows of later epochs have numbers of their own: `epoch * num_sequences + row`."""

    def rows_of_step(self, step: int) -> NDArray[np.int64]:
        """Numbers of the `rows_per_step` sequences behind update `step`, counting from 0."""
        start = step * self.rows_per_step
        places = np.arange(start, start + self.rows_per_step, dtype=np.uint64)
        epochs = places // np.uint64(self.num_sequences)
        rows = np.empty(self.rows_per_step, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            inside = places[here] % np.uint64(self.num_sequences)
            rows[here] = permute(inside, self.num_sequences, self.seed, int(epoch))
            if self.numbers_through:
                rows[here] += int(epoch) * self.num_sequences
        return rows

    def epochs_at(self, step: int) -> float:
        """Passes over the data after `step` updates."""
        return step * self.rows_per_step / self.num_sequences
