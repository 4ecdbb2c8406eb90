"""Shared runs found by the suffix array equal those of an exhaustive search."""

from __future__ import annotations

import random

import numpy as np

from teenytinyllama.serving.search.suffix_array import RunFinder, suffix_array


def common_prefix(left: list[int], right: list[int]) -> int:
    size = 0
    while size < min(len(left), len(right)) and left[size] == right[size]:
        size += 1
    return size


def test_runs_equal_those_of_an_exhaustive_search() -> None:
    rng = random.Random(5)
    for _ in range(30):
        data = np.array([rng.randrange(5) for _ in range(300)], np.int32)
        query = [rng.randrange(1, 6) for _ in range(40)]
        sizes, places = RunFinder(data, suffix_array(data)).longest_runs(query)
        text = data.tolist()
        for at, (size, place) in enumerate(zip(sizes, places, strict=True)):
            best = max(common_prefix(text[p:], query[at:]) for p in range(300))
            assert size == best
            assert text[place : place + size] == query[at : at + size]


def test_runs_longer_than_the_sorted_words_are_counted_whole() -> None:
    data = np.array([*range(1, 200), 0, *range(1, 100), 0], np.int32)
    sizes, _ = RunFinder(data, suffix_array(data)).longest_runs(list(range(5, 190)))
    assert sizes[0] in (95, 185) and sizes[60] in (35, 125)
