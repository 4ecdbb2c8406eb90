"""Pack conversations into rows: best fit, whole, isolated, with a loss on answers only.

Two conversations of 4 and 3 tokens in a row of 8 (`a` supervised, `.` not, `_` padding):

    input_ids     s U x A | s U y | _        the last EOS predicts nothing and is left out
    position_ids  0 1 2 3 | 0 1 2 | 0        a restart at 0 isolates: attention does not cross it
    targets       . . a e | . a e | .        what each place must predict

Conversations are never split over rows; those longer than a row are truncated before.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.training.losses import IGNORED


@dataclass(frozen=True)
class Rendered:
    """One conversation as token ids, with a mask of 1 where a token is supervised."""

    ids: Sequence[int]
    mask: Sequence[int]

    @property
    def num_inputs(self) -> int:
        """Places it takes in a row: all tokens but the last, which predicts nothing."""
        return len(self.ids) - 1

    @property
    def num_supervised(self) -> int:
        """Number of supervised tokens."""
        return sum(self.mask)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: each item goes into the fullest row it fits in.

    Deterministic. No item may be longer than `capacity`.

    >>> best_fit([5, 3, 4, 2], capacity=7)
    [[0, 3], [2, 1]]
    """
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (places left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        assert length <= capacity, "truncate it first"
        at = bisect_left(space, (length, -1))
        if at < len(space):
            left, row = space.pop(at)
            rows[row].append(index)
        else:
            left, row = capacity, len(rows)
            rows.append([index])
        insort(space, (left - length, row))
    return rows


def lay_out(
    conversations: Sequence[Rendered], rows: Sequence[Sequence[int]], length: int, *, pad_id: int
) -> dict[str, NDArray[Any]]:
    """The arrays of some rows: `input_ids`, `position_ids` (B, T), `places` and `targets` (S,).

    `places` are the flat positions with a loss, `targets` what they must predict.
    """
    input_ids = np.full((len(rows), length), pad_id, np.int64)
    position_ids = np.zeros((len(rows), length), np.int64)
    labels = np.full((len(rows), length), IGNORED, np.int64)
    for row, members in enumerate(rows):
        at = 0
        for index in members:
            one = conversations[index]
            end = at + one.num_inputs
            ids, mask = np.asarray(one.ids), np.asarray(one.mask)
            input_ids[row, at:end] = ids[:-1]
            position_ids[row, at:end] = np.arange(one.num_inputs)
            labels[row, at:end] = np.where(mask[1:] == 1, ids[1:], IGNORED)
            at = end
    places = np.flatnonzero(labels != IGNORED)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "places": places,
        "targets": labels.ravel()[places],
    }
