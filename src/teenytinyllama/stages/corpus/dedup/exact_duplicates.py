"""`ExactDuplicates` and `UniqueIds`: texts and ids that an earlier document has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.stages.corpus.batches import IndexEntry
from teenytinyllama.stages.corpus.staging import CorpusState, CorpusStep


class ExactDuplicates(CorpusStep):
    """Drops a document whose text an earlier one has that is kept.

    This replaces the reason of a filter. A document that a filter drops makes no other a copy: a
    text from a blocked domain and then from an allowed one is kept once.
    """

    def __init__(self, state: CorpusState) -> None:
        super().__init__(state)
        self._first_row: dict[bytes, int] = {}

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """Compare the texts as they are read."""
        for row, entry in enumerate(entries, start=first_row):
            self._compare(row, entry.digest)

    def revise(self, row: int, document: Document) -> None:
        """Compare what is left of the texts."""
        self._compare(row, self.state.index.final_digest(row))

    def _compare(self, row: int, digest: bytes) -> None:
        first = self._first_row.get(digest)
        if first is not None:
            self.state.index.drop(row, "duplicate-exact", duplicate_of=first)
        elif not self.state.index.reasons[row]:
            self._first_row[digest] = row


class UniqueIds(CorpusStep):
    """Numbers documents that share an id: `one`, `one#2`, `one#3`."""

    def __init__(self, state: CorpusState) -> None:
        super().__init__(state)
        self._times: dict[bytes, int] = {}

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """Count each id as it is read."""
        for row, entry in enumerate(entries, start=first_row):
            times = self._times[entry.id_digest] = self._times.get(entry.id_digest, 0) + 1
            if times > 1:
                self.state.index.id_numbers[row] = times
                self.state.notes["duplicate-id"] += 1


def digest_of(text: str) -> bytes:
    r"""128-bit hash of a text's words, so that white space does not distinguish texts.

    >>> digest_of("um  dois\n") == digest_of("um dois")
    True
    """
    words = " ".join(text.split()).encode("utf-8", "replace")
    return hashlib.blake2b(words, digest_size=16).digest()
