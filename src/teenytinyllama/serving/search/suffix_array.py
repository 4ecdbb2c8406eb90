"""Runs of words that a text shares with the chat data: exact, over all of it, in milliseconds.

A suffix array orders all positions of the data by the words that follow. At the position where the
words of a text would be inserted, one of the two neighbours shares the longest run with it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
BORDER = 0  # between messages; no word of a text equals it
SORTED_WORDS = 64  # of two runs longer than this the shorter one may be found
BIG_ENDIAN = ">u4"  # bytes of such numbers have the order of the numbers


def suffix_array(ids: Ids) -> Ids:
    """Positions of `ids` ordered by the SORTED_WORDS words that follow (prefix doubling).

    Sorted by a word at first; then only equal positions are sorted again, by twice as many words.
    `rank` of a position is where its group of equals starts in the order.

    >>> suffix_array(np.array([2, 1, 2, 0], np.int32)).tolist()
    [3, 1, 2, 0]
    """
    size, width = len(ids), 1
    order = np.argsort(ids)
    key = ids[order].astype(np.int64)
    slots = np.arange(size)
    is_first = np.ones(size + 1, bool)
    rank = np.empty(size, np.int64)
    while True:
        is_first[slots[1:]] = (key[1:] != key[:-1]) | (slots[1:] != slots[:-1] + 1)
        rank[order[slots]] = np.maximum.accumulate(np.where(is_first[slots], slots, 0))
        slots = np.flatnonzero(~(is_first[:-1] & is_first[1:]))
        if width >= SORTED_WORDS or not len(slots):
            return order.astype(np.int32)
        places = order[slots]
        after = np.where(places + width < size, rank[np.minimum(places + width, size - 1)] + 1, 0)
        key = rank[places] * (size + 1) + after
        by = np.argsort(key)
        order[slots], key = places[by], key[by]
        width *= 2


class RunFinder:
    """Finds the longest run that starts at a word of a text and is in `ids`, ordered by `order`.

    >>> data = np.array([5, 6, 7, 0, 6, 7, 8, 0], np.int32)
    >>> RunFinder(data, suffix_array(data)).longest_runs([6, 7, 8, 9])[0].tolist()
    [3, 2, 1, 0]
    """

    def __init__(self, ids: Ids, order: Ids) -> None:
        self._ids, self._order = ids.astype(BIG_ENDIAN), order
        self._bytes = self._ids.tobytes()

    def longest_runs(self, query: list[int]) -> tuple[Ids, Ids]:
        """For each word of `query`: how long the longest run from there is, and where in `ids`."""
        wanted = np.array(query, np.int64).astype(BIG_ENDIAN)
        found = [self._longest(wanted[at:]) for at in range(len(wanted))]
        sizes, places = np.array(found, np.int32).reshape(-1, 2).T
        return sizes, places

    def _longest(self, wanted: NDArray[Any]) -> tuple[int, int]:
        def following(place: Any) -> bytes:
            return self._bytes[4 * int(place) : 4 * (int(place) + SORTED_WORDS)]

        at = bisect_left(self._order, wanted[:SORTED_WORDS].tobytes(), key=following)
        near = self._order[max(at - 1, 0) : at + 1].tolist()
        return max(((self._shared(wanted, place), place) for place in near), default=(0, 0))

    def _shared(self, wanted: NDArray[Any], place: int) -> int:
        there = self._ids[place : place + len(wanted)]
        differs = np.flatnonzero(there != wanted[: len(there)])
        return int(differs[0]) if len(differs) else len(there)
