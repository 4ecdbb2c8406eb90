"""The index of what was read: one row of numbers per document, texts elsewhere.

About 40 bytes per document in memory.
"""

from __future__ import annotations

from array import array


class Names:
    """Words as small numbers, in order of first appearance."""

    def __init__(self, first: tuple[str, ...] = ()) -> None:
        self.names = list(first)
        self._codes = {name: code for code, name in enumerate(first)}

    def code(self, name: str) -> int:
        """The number of a word, new or known."""
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code


class Index:
    """One row per good record in reading order: its digest, source, size and verdict so far."""

    def __init__(self) -> None:
        self.digests = bytearray()
        self.sources = array("i")
        self.num_bytes = array("q")
        self.reasons = array("i")
        self.source_names = Names()
        self.reason_names = Names(("",))
        self.duplicate_of: dict[int, int] = {}
        self.similarity: dict[int, float] = {}
        self.renamed: dict[int, int] = {}
        self.instruction_sources: set[str] = set()

    def __len__(self) -> int:
        return len(self.reasons)

    def reason(self, row: int) -> str:
        """Why a document is dropped, or ""."""
        return self.reason_names.names[self.reasons[row]]

    def source(self, row: int) -> str:
        """Name of a document's source."""
        return self.source_names.names[self.sources[row]]

    def drop(self, row: int, reason: str, duplicate_of: int | None = None) -> None:
        """Give a document the reason that drops it."""
        self.reasons[row] = self.reason_names.code(reason)
        if duplicate_of is not None:
            self.duplicate_of[row] = duplicate_of

    def digest(self, row: int) -> bytes:
        """128-bit hash of a document's text."""
        return bytes(self.digests[16 * row : 16 * row + 16])
