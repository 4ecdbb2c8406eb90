"""In which order documents are laid end to end, and how often each.

Best fit costs nothing in tokens: no padding, no cropping, the same documents in another order.
Rows still touch each other, so a document longer than what is left of a row goes on in the next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.data_preparation import PackSettings

DOCUMENTS_PER_POOL = 20_000  # best fit looks among so many documents at a time


def order_documents(
    num_tokens: NDArray[np.int64],
    sources: Sequence[str],
    settings: PackSettings,
    *,
    is_train: bool,
) -> NDArray[np.int64]:
    """Indices of documents in packing order; held-out documents come once each.

    The seed and the documents decide it alone, so the same recipe gives the same bytes. Raises
    UserError where `epochs` names a source that the corpus does not have.
    """
    generator = np.random.Generator(np.random.Philox(key=settings.seed))
    chosen = np.arange(len(num_tokens))
    if is_train and settings.epochs:
        chosen = _repeated(sources, settings.epochs, generator)
    shuffled = generator.permutation(chosen)
    if settings.order == "shuffled":
        return shuffled
    row_length = settings.sequence_length
    order: list[int] = []
    stage = row_length
    for start in range(0, len(shuffled), DOCUMENTS_PER_POOL):
        pool = shuffled[start : start + DOCUMENTS_PER_POOL]
        stage = _best_fit(pool, num_tokens, row_length, stage, order)
    return np.array(order, np.int64)


def _repeated(
    sources: Sequence[str], epochs: dict[str, float], generator: np.random.Generator
) -> NDArray[np.int64]:
    names = np.array(sources)
    known = sorted(set(sources))
    for name in epochs:
        if name not in known:
            raise UserError(
                "pack-source-unknown",
                f"pack.epochs.{name}",
                "the corpus has no training document of this source",
                did_you_mean(name, known),
            )
    chosen = []
    for name in known:
        documents = np.flatnonzero(names == name)
        whole, part = divmod(epochs.get(name, 1.0), 1.0)
        chosen += [documents] * int(whole)
        chosen.append(generator.permutation(documents)[: round(part * len(documents))])
    return np.concatenate(chosen)


def _best_fit(
    pool: NDArray[np.int64],
    num_tokens: NDArray[np.int64],
    row_length: int,
    stage: int,
    order: list[int],
) -> int:
    """Append the pool to `order`; `stage` is what is left of the last row, before and after.

    A row opens with the next document in shuffled order and is filled with the largest one that
    still fits; where none does, the next in order goes on in the row after.
    """
    by_length = sorted((int(num_tokens[index]), place) for place, index in enumerate(pool))
    taken = bytearray(len(pool))
    following = 0
    while by_length:
        place = None
        if stage < row_length:
            fit = bisect_right(by_length, (stage, len(pool))) - 1
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
        stage = row_length - (row_length - stage + int(num_tokens[pool[place]])) % row_length
    return stage


def fraction_of_rows_cut(lengths: NDArray[np.int64], row_length: int) -> float:
    """Share of row borders that lie inside a document, for documents in packing order.

    >>> fraction_of_rows_cut(np.array([3, 1, 6, 2]), row_length=4)
    0.5
    """
    ends = np.cumsum(lengths)
    num_borders = (int(ends[-1]) - 1) // row_length
    if num_borders < 1:
        return 0.0
    borders = np.arange(1, num_borders + 1) * row_length
    return float(1 - np.isin(borders, ends).mean())
