"""The order in which documents are concatenated, and how often each is repeated.

Best-fit packing changes only the order: no padding and no truncation. A document that is longer
than the rest of a row continues in the next row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.data_preparation import PackSettings

DOCUMENTS_PER_POOL = 20_000  # best fit chooses among this many documents at a time


def order_documents(
    num_tokens: NDArray[np.int64],
    sources: Sequence[str],
    settings: PackSettings,
    *,
    is_train: bool,
) -> NDArray[np.int64]:
    """Indices of documents in packing order; held-out documents come once each.

    The order depends only on the seed and the documents. Raises UserError if `epochs` names a
    source that the corpus does not have.
    """
    generator = np.random.Generator(np.random.Philox(key=settings.seed))
    chosen = np.arange(len(num_tokens))
    if is_train and settings.epochs:
        chosen = _repeat_sources(sources, settings.epochs, generator)
    return arrange(chosen, num_tokens, settings, generator)


def arrange(
    chosen: NDArray[np.int64],
    num_tokens: NDArray[np.int64],
    settings: PackSettings,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """The `chosen` documents shuffled, or fitted to rows."""
    shuffled = generator.permutation(chosen)
    if settings.order == "shuffled":
        return shuffled
    row_length = settings.sequence_length
    order: list[int] = []
    free = row_length
    for start in range(0, len(shuffled), DOCUMENTS_PER_POOL):
        pool = shuffled[start : start + DOCUMENTS_PER_POOL]
        free = _best_fit(pool, num_tokens, row_length, free, order)
    return np.array(order, np.int64)


def _repeat_sources(
    sources: Sequence[str], epochs: dict[str, float], generator: np.random.Generator
) -> NDArray[np.int64]:
    names = np.array(sources)
    known = sorted(set(sources))
    check_sources("pack.epochs", epochs, known)
    chosen = []
    for name in known:
        documents = np.flatnonzero(names == name)
        whole, part = divmod(epochs.get(name, 1.0), 1.0)
        chosen += [documents] * int(whole)
        chosen.append(generator.permutation(documents)[: round(part * len(documents))])
    return np.concatenate(chosen)


def check_sources(setting: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raise UserError for a name that is not of a source that the corpus has."""
    for name in names:
        if name not in known:
            raise UserError(
                "pack-source-unknown",
                f"{setting}.{name}",
                "the corpus has no training document of this source",
                did_you_mean(name, known),
            )


def _best_fit(
    pool: NDArray[np.int64],
    num_tokens: NDArray[np.int64],
    row_length: int,
    free: int,
    order: list[int],
) -> int:
    """Append the documents of `pool` to `order`; returns the tokens still free in the last row.

    `free` is that number before. A row begins with the next document in shuffled order and is
    filled with the largest ones that fit. If none fits, the next in order continues in the next
    row.
    """
    by_length = sorted((int(num_tokens[index]), place) for place, index in enumerate(pool))
    taken = bytearray(len(pool))
    following = 0
    while by_length:
        place = None
        if free < row_length:
            fit = bisect_right(by_length, (free, len(pool))) - 1
            if fit >= 0:
                _, place = by_length.pop(fit)
        if place is None:
            while taken[following]:
                following += 1
            place = following
            entry = (int(num_tokens[pool[place]]), place)
            by_length.pop(bisect_right(by_length, entry) - 1)
        taken[place] = 1
        order.append(int(pool[place]))
        free = row_length - (row_length - free + int(num_tokens[pool[place]])) % row_length
    return free


def fraction_of_rows_cut(lengths: NDArray[np.int64], row_length: int) -> float:
    """Fraction of row boundaries that are inside a document, for documents in packing order.

    >>> fraction_of_rows_cut(np.array([3, 1, 6, 2]), row_length=4)
    0.5
    """
    ends = np.cumsum(lengths)
    num_boundaries = (int(ends[-1]) - 1) // row_length
    if num_boundaries < 1:
        return 0.0
    boundaries = np.arange(1, num_boundaries + 1) * row_length
    return float(1 - np.isin(boundaries, ends).mean())
