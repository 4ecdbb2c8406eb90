"""Conversations to rows: best fit, whole, isolated, and only the answers learnt.

Two conversations of 4 and 3 tokens in a row of 8 (`a` learnt, `.` not, `_` padding):

    input_ids     s U x A | s U y | _        the end mark predicts nothing and stays out
    position_ids  0 1 2 3 | 0 1 2 | 0        falling back to 0 isolates: attention keeps to its own
    targets       . . a e | . a e | .        what each place must predict

No row holds a part of a conversation, so nothing is cut that fits; what is longer than a row
loses its last turns before it comes here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -100


@dataclass(frozen=True)
class Rendered:
    """One conversation as ids, with 1 where a token is learnt."""

    ids: Sequence[int]
    mask: Sequence[int]

    @property
    def num_inputs(self) -> int:
        """Places it takes in a row: all its tokens but the last, which predicts nothing."""
        return len(self.ids) - 1

    @property
    def num_supervised(self) -> int:
        """Tokens that are learnt."""
        return sum(self.mask)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which items share a row: longest first, each into the fullest row that still has space.

    The same lengths give the same rows. Items longer than `capacity` must not come here.

    >>> best_fit([5, 3, 4, 2], capacity=7)
    [[0, 3], [2, 1]]
    """
    rows: list[list[int]] = []
    stage: list[tuple[int, int]] = []  # (places left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        assert length <= capacity, "cut it first"
        at = bisect_left(stage, (length, -1))
        if at < len(stage):
            left, row = stage.pop(at)
            rows[row].append(index)
        else:
            left, row = capacity, len(rows)
            rows.append([index])
        insort(stage, (left - length, row))
    return rows


def lay_out(
    conversations: Sequence[Rendered], rows: Sequence[Sequence[int]], length: int, *, pad_id: int
) -> dict[str, NDArray[Any]]:
    """The arrays of some rows: `input_ids`, `position_ids` (B, T), `places` and `targets` (S,).

    `places` are the flat positions whose prediction is learnt, `targets` what they must predict.
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
