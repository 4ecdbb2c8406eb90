"""Runs of words that a text shares with the chat data: exact, over all of it, in milliseconds.

A suffix array orders all positions of the data by the words that follow. At the position where the
words of a text would be inserted, one of the two neighbours shares the longest run with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
BORDER = 0  # between messages; no word of a text equals it
SORTED_WORDS = 64  # of two runs longer than this the shorter one may be found


def suffix_array(ids: Ids) -> Ids:
    """Positions of `ids` ordered by the SORTED_WORDS words that follow (prefix doubling).

    Sorted by a few words at first; then only equal positions are sorted again, by twice as many
    words. `rank` of a position is where its group of equals starts in the order.

    >>> suffix_array(np.array([2, 1, 2, 0], np.int32)).tolist()
    [3, 1, 2, 0]
    """
    size = len(ids)
    if not size:
        return np.zeros(0, np.int32)
    key, width = _first_words(ids)
    order = np.argsort(key)
    key = key[order]
    is_first = np.concatenate(([True], key[1:] != key[:-1], [True]))
    rank = np.empty(size, np.int64)
    rank[order] = np.maximum.accumulate(np.where(is_first[:-1], np.arange(size), 0))
    while width < SORTED_WORDS:
        slots = np.flatnonzero(~(is_first[:-1] & is_first[1:]))
        if not len(slots):
            break
        places = order[slots]
        after = np.where(places + width < size, rank[np.minimum(places + width, size - 1)] + 1, 0)
        key = rank[places] * (size + 1) + after
        by = np.argsort(key)
        order[slots], key = places[by], key[by]
        is_first[slots] = np.concatenate(([True], key[1:] != key[:-1]))
        rank[order[slots]] = np.maximum.accumulate(np.where(is_first[slots], slots, 0))
        width *= 2
    return order.astype(np.int32)


def _first_words(ids: Ids) -> tuple[NDArray[Any], int]:
    """One number for the first few words from each position, as many as fit into 63 bits."""
    base = int(ids.max()) + 1
    width = 1
    while width < 4 and base ** (width + 1) < 2**62:
        width += 1
    padded = np.concatenate((ids.astype(np.int64), np.zeros(width, np.int64)))
    key = np.zeros(len(ids), np.int64)
    for offset in range(width):
        key = key * base + padded[offset : offset + len(ids)]
    return key, width


def longest_runs(query: Ids, ids: Ids, order: Ids) -> tuple[Ids, Ids]:
    """For each word of `query`: the longest run that starts there and is in `ids`; and where.

    >>> data = np.array([5, 6, 7, 0, 6, 7, 8, 0], np.int32)
    >>> sizes, _ = longest_runs(np.array([6, 7, 8, 9], np.int32), data, suffix_array(data))
    >>> sizes.tolist()
    [3, 2, 1, 0]
    """
    num_words, num_places = len(query), len(ids)
    if not num_words or not num_places:
        return np.zeros(num_words, np.int32), np.zeros(num_words, np.int32)
    columns = np.arange(SORTED_WORDS)
    padded = np.concatenate((query, np.full(SORTED_WORDS, -1, np.int32)))
    wanted = padded[np.arange(num_words)[:, None] + columns]  # (words, SORTED_WORDS)

    def rows_at(places: NDArray[Any]) -> NDArray[Any]:
        at = places[:, None] + columns
        return np.where(at < num_places, ids[np.minimum(at, num_places - 1)], BORDER)

    low, high = np.zeros(num_words, np.int64), np.full(num_words, num_places, np.int64)
    while (open_ := low < high).any():
        middle = (low + high) // 2
        found = rows_at(order[np.minimum(middle, num_places - 1)])
        differs = found != wanted
        first = differs.argmax(1)[:, None]
        less = np.take_along_axis(found, first, 1) < np.take_along_axis(wanted, first, 1)
        less = less[:, 0]
        low = np.where(open_ & less, middle + 1, low)
        high = np.where(open_ & ~less, middle, high)
    best, where = np.zeros(num_words, np.int32), np.zeros(num_words, np.int32)
    for neighbour in (low - 1, low):
        places = order[np.clip(neighbour, 0, num_places - 1)]
        differs = np.pad(rows_at(places) != wanted, ((0, 0), (0, 1)), constant_values=True)
        size = differs.argmax(1).astype(np.int32)
        where = np.where(size > best, places, where).astype(np.int32)
        best = np.maximum(best, size)
    _extend(best, where, query, ids)
    return best, where


def _extend(sizes: Ids, places: Ids, query: Ids, ids: Ids) -> None:
    """Follow runs past SORTED_WORDS words."""
    for word in np.flatnonzero(sizes >= SORTED_WORDS):
        size, place = int(sizes[word]), int(places[word])
        ends = min(len(query) - int(word), len(ids) - place)
        differs = query[word + size : word + ends] != ids[place + size : place + ends]
        sizes[word] = size + int(differs.argmax()) if differs.any() else ends
