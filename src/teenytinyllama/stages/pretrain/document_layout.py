"""Documents laid end to end in a new order in every epoch, so that no two epochs have equal rows.

Where documents lie in an epoch is a function of (seed, epoch): nothing is stored, and a resumed
run finds the same rows. Every epoch has all documents whole and the same number of rows; the
tokens after its last complete row are others in every epoch.

    packed          a a a a b b c c c d d
    epoch 0         c c c a|a a a d|d b b       rows of 4
    epoch 1         d d b b|a a a a|c c c
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.tokens import TokenFile
from teenytinyllama.training.data_order import permute

# Documents and rows are permuted by different keys of one seed.
DOCUMENT_KEY = 0x646F6373


class _Layout(NamedTuple):
    documents: NDArray[np.int64]  # in the order of the epoch
    ends: NDArray[np.int64]  # where each of them ends


class DocumentLayout:
    """The rows of every epoch, numbered through: row `r` of epoch `e` is `e * num_sequences + r`.

    Takes the place of a `TokenFile` where rows are read.
    """

    def __init__(self, tokens: TokenFile, sequence_length: int, seed: int) -> None:
        self.tokens, self.seed = tokens, seed
        self.num_sequences = tokens.num_sequences(sequence_length)
        self._lengths = np.diff(tokens.document_starts.astype(np.int64))
        # A step may read from the end of one epoch and the beginning of the next.
        self._layout = lru_cache(maxsize=2)(self._make_layout)

    def _make_layout(self, epoch: int) -> _Layout:
        number = len(self._lengths)
        places = np.arange(number, dtype=np.uint64)
        order = permute(places, number, self.seed ^ DOCUMENT_KEY, epoch).astype(np.int64)
        return _Layout(order, np.cumsum(self._lengths[order]))

    def sequence(self, index: int, sequence_length: int) -> NDArray[np.int64]:
        """Row `index`: `sequence_length + 1` ids, the inputs and one more target."""
        layout, start, first = self._find(index, sequence_length)
        parts: list[NDArray[Any]] = []
        missing = sequence_length + 1
        for place in range(first, len(layout.ends)):
            document = layout.documents[place]
            begin = int(self.tokens.document_starts[document])
            skip = max(0, start - int(layout.ends[place] - self._lengths[document]))
            part = self.tokens.tokens[begin + skip : begin + int(self._lengths[document])]
            parts.append(part[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
        return np.concatenate(parts).astype(np.int64)

    def documents_in(self, index: int, sequence_length: int) -> list[int]:
        """Numbers of the documents that row `index` has tokens of."""
        layout, start, first = self._find(index, sequence_length)
        last = bisect_right(layout.ends, start + sequence_length, lo=first)
        return sorted(int(number) for number in layout.documents[first : last + 1])

    def _find(self, index: int, sequence_length: int) -> tuple[_Layout, int, int]:
        """The layout of a row's epoch, its first token there, and the place of its document."""
        epoch, row = divmod(index, self.num_sequences)
        layout, start = self._layout(epoch), row * sequence_length
        return layout, start, int(np.searchsorted(layout.ends, start, side="right"))
