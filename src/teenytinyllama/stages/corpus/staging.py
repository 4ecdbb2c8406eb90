"""State between the two passes of the stage, and what a corpus step is.

The first pass reads every record and fills the index and the staging file; the second writes what
the steps decided. About 200 bytes per document stay in memory.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import zstandard

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.batches import IndexEntry

KEPT, QUARANTINED = "kept", "quarantined"
DUPLICATES = ("duplicate-exact", "duplicate-near")
OUTCOMES = (KEPT, "filtered", "duplicate", QUARANTINED)
# A `source` field may hold a URL per line: beyond this many names the others share one.
MAX_SOURCES = 1000


class NameTable:
    """Names as small numbers, in order of first appearance."""

    def __init__(self, first: tuple[str, ...] = ()) -> None:
        self.names = list(first)
        self._codes = {name: code for code, name in enumerate(first)}

    def code(self, name: str) -> int:
        """The number of a name, new or known."""
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code


class DocumentIndex:
    """One row of numbers per document in reading order, and what the steps decided."""

    def __init__(self) -> None:
        self.digests = bytearray()
        self.sources = array("i")
        self.num_bytes = array("q")
        self.reasons = array("i")
        self.source_names = NameTable()
        self.reason_names = NameTable(("",))
        self.duplicate_of: dict[int, int] = {}
        self.similarity: dict[int, float] = {}
        self.id_numbers: dict[int, int] = {}
        """Documents whose id an earlier one has: how many have it so far."""
        self.edited_digests: dict[int, bytes] = {}
        """Digests of texts that a corpus step edited."""
        self.heldout_limit = 0
        self.copies: dict[int, int] = {}
        """How often a training document is written, where more than once."""
        self.conversation_sources: set[str] = set()

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, entries: Sequence[IndexEntry]) -> None:
        """Append a row per document."""
        for entry in entries:
            self.digests += entry.digest
            self.sources.append(self.source_names.code(entry.source))
            self.num_bytes.append(entry.num_bytes)
            self.reasons.append(self.reason_names.code(entry.reason))

    def reason(self, row: int) -> str:
        """Why a document is dropped, or ""."""
        return self.reason_names.names[self.reasons[row]]

    def source(self, row: int) -> str:
        """Name of a document's source."""
        return self.source_names.names[self.sources[row]]

    def drop(self, row: int, reason: str, duplicate_of: int | None = None) -> None:
        """Drop a document."""
        self.reasons[row] = self.reason_names.code(reason)
        if duplicate_of is not None:
            self.duplicate_of[row] = duplicate_of

    def digest(self, row: int) -> bytes:
        """128-bit hash of a document's text as the workers left it."""
        return bytes(self.digests[16 * row : 16 * row + 16])

    def final_digest(self, row: int) -> bytes:
        """128-bit hash of a document's text as it is written."""
        return self.edited_digests.get(row) or self.digest(row)

    def split_hash(self, row: int) -> int:
        """64 bits of a document's digest as a number."""
        return int.from_bytes(self.digest(row)[:8], "big")

    def is_heldout(self, row: int) -> bool:
        """Whether a document is held out: depends on its text and the limit only."""
        return self.split_hash(row) < self.heldout_limit

    def unique_id(self, row: int, given: str) -> str:
        """The document's id, with a number where an earlier document has the same."""
        return f"{given}#{self.id_numbers[row]}" if row in self.id_numbers else given


def outcome_of(reason: str) -> str:
    """The outcome of a document dropped for this reason; `kept` for none."""
    if not reason:
        return KEPT
    return "duplicate" if reason in DUPLICATES else "filtered"


class CorpusStats:
    """Documents and bytes by source and outcome, and documents by reason.

    Every record has one outcome. Bytes are those of the text as read; of a record without text,
    those of the record.
    """

    def __init__(self) -> None:
        self._documents: dict[str, Counter[str]] = defaultdict(Counter)
        self._bytes: dict[str, Counter[str]] = defaultdict(Counter)
        self._reasons: dict[str, Counter[str]] = {name: Counter() for name in OUTCOMES[1:]}
        self.licenses: Counter[str] = Counter()

    def add(self, source: str, outcome: str, reason: str, num_bytes: int) -> None:
        """One record."""
        assert outcome in OUTCOMES, outcome  # so that the outcomes sum to what was read
        if source not in self._documents and len(self._documents) >= MAX_SOURCES:
            source = "other"
        self._documents[source][outcome] += 1
        self._bytes[source][outcome] += num_bytes
        if outcome != KEPT:
            self._reasons[outcome][reason] += 1

    def total(self, outcome: str = "") -> int:
        """Records with one outcome, or all."""
        return sum(n[outcome] if outcome else n.total() for n in self._documents.values())

    def reasons(self, outcome: str) -> Counter[str]:
        """Records with one outcome, by reason."""
        return self._reasons[outcome]

    def counts(self) -> dict[str, Any]:
        """The counts of the manifest: in all, per source, and by reason."""
        return {
            **_row(sum(self._documents.values(), Counter()), sum(self._bytes.values(), Counter())),
            "sources": {
                name: _row(self._documents[name], self._bytes[name])
                for name in sorted(self._documents)
            },
            **{
                f"{outcome}_by_reason": dict(sorted(counts.items()))
                for outcome, counts in self._reasons.items()
            },
        }


def _row(documents: Counter[str], num_bytes: Counter[str]) -> dict[str, int]:
    return {
        "documents_read": documents.total(),
        **{f"documents_{outcome}": documents[outcome] for outcome in OUTCOMES},
        "bytes_read": num_bytes.total(),
        **{f"bytes_{outcome}": num_bytes[outcome] for outcome in OUTCOMES},
    }


class StagingFile:
    """The texts between the two passes, on disk: one compressed frame per batch, in reading order.

    Rows are counted over all frames, as in the index.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._sizes, self._counts = array("q"), array("q")

    def add(self, frame: bytes, count: int) -> None:
        """Append a compressed frame of `count` documents."""
        if count:
            self._file.write(frame)
            self._sizes.append(len(frame))
            self._counts.append(count)

    def close(self) -> None:
        """End the first pass: from now on the file is read."""
        self._file.close()

    def batches(self, wanted: set[int] | None = None) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """(row, record) of the wanted documents or of all, frame by frame, in order."""
        decompressor = zstandard.ZstdDecompressor()
        first = 0
        with self.path.open("rb") as file:
            for size, count in zip(self._sizes, self._counts, strict=True):
                rows = range(first, first + count)
                first += count
                if wanted is not None and wanted.isdisjoint(rows):
                    file.seek(size, 1)
                    continue
                lines = decompressor.decompress(file.read(size)).split(b"\n")
                yield [
                    (row, json.loads(line))
                    for row, line in zip(rows, lines, strict=True)
                    if wanted is None or row in wanted
                ]


@dataclass
class CorpusState:
    """What all corpus steps share."""

    settings: CorpusSettings
    work_dir: Path
    texts: StagingFile
    index: DocumentIndex = field(default_factory=DocumentIndex)
    stats: CorpusStats = field(default_factory=CorpusStats)
    notes: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, Any] = field(default_factory=dict)


class CorpusStep:
    """A step that needs earlier documents, or all of them.

    A step that needs all collects what it needs in the first pass, decides between the passes, and
    may revise documents in the second. A step that needs only earlier documents works as they
    stream by: in the first pass if no step before it in the list needs all, else in the second.
    """

    setting: ClassVar[str] = ""
    """The setting of `[corpus]` that asks for the step; "" for a step of every corpus."""
    needs_all_documents: ClassVar[bool] = False

    def __init__(self, state: CorpusState) -> None:
        self.state = state

    @classmethod
    def is_wanted(cls, settings: CorpusSettings) -> bool:
        """Whether the recipe asks for this step."""
        return not cls.setting or bool(getattr(settings, cls.setting))

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """First pass: documents that are in the index from `first_row` on."""

    def decide(self) -> None:
        """Between the passes."""

    def revise(self, row: int, document: Document) -> None:
        """Second pass: one document that is kept so far."""
