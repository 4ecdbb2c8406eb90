"""Writes what was decided: the two splits, what was dropped with its text, and who copies whom."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import zstandard

from teenytinyllama.errors import UserError
from teenytinyllama.formats.documents import Document, DocumentWriter
from teenytinyllama.progress import Progress
from teenytinyllama.stages.corpus.index import Index
from teenytinyllama.stages.corpus.ledger import Ledger, heading_of
from teenytinyllama.stages.corpus.spool import Spool

DROPPED_DIR = "dropped"


@dataclass(slots=True)
class Written:
    """What stands on disk after the last pass."""

    documents_train: int = 0
    documents_heldout: int = 0
    bytes_train: int = 0
    bytes_heldout: int = 0


def heldout_limit(index: Index, fraction: float) -> int:
    """Documents whose hash, as a 64-bit number, is below this are held out.

    Near `fraction` of all. Where chance leaves one of the two splits empty, the document with the
    smallest or largest hash goes there. Raises UserError where two documents do not remain.
    """
    hashes = [_number(index.digest(row)) for row in range(len(index)) if not index.reasons[row]]
    if len(hashes) < 2:
        raise _nothing_remains(index, len(hashes))
    limit = int(fraction * 2**64)
    return min(max(limit, min(hashes) + 1), max(hashes))


def heldout(index: Index, limit: int, row: int) -> bool:
    """Whether a document is held out."""
    return _number(index.digest(row)) < limit


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def _nothing_remains(index: Index, remain: int) -> UserError:
    reasons = Counter(index.reason(row) for row in range(len(index)) if index.reasons[row])
    if not reasons:
        return UserError(
            "corpus-empty",
            "corpus.sources",
            f"{remain} documents in all, expected 2 or more",
            "add text to the sources",
        )
    reason, count = reasons.most_common(1)[0]
    return UserError(
        "corpus-empty",
        "corpus",
        f"{remain} documents remain of {len(index)}; largest filter: {reason} ({count})",
        "look into the sources, or loosen that filter",
    )


class Closing:
    """The last pass over the spool: every document to its file and into the ledger."""

    def __init__(
        self,
        out_dir: Path,
        index: Index,
        ledger: Ledger,
        is_heldout: Callable[[int], bool],
        copies: Mapping[int, int],
    ) -> None:
        self.out_dir, self.index, self.ledger = out_dir, index, ledger
        self.is_heldout, self.copies = is_heldout, copies
        self.written = Written()
        self._ids: dict[int, str] = {}
        self._kept_rows = set(index.duplicate_of.values())

    def run(self, spool: Spool) -> Written:
        """Write everything. The two splits share no text: asserted."""
        splits: dict[str, set[bytes]] = {"train": set(), "heldout": set()}
        title = "corpus: write"
        with ExitStack() as stack, Progress(title, total=len(self.index), unit="documents") as work:
            writers = {
                name: stack.enter_context(DocumentWriter(self.out_dir, name)) for name in splits
            }
            dropped: dict[str, DocumentWriter] = {}
            for row, record in chain.from_iterable(spool.batches()):
                work.advance()
                document = Document(**record)
                if row in self.index.renamed:
                    document.id += f"#{self.index.renamed[row]}"
                reason = self.index.reason(row)
                source, size = self.index.source(row), self.index.num_bytes[row]
                self.ledger.add(source, heading_of(reason), reason, size)
                if row in self._kept_rows or row in self.index.duplicate_of:
                    self._ids[row] = document.id
                if reason:
                    if reason not in dropped:
                        folder = self.out_dir / DROPPED_DIR / reason
                        dropped[reason] = stack.enter_context(DocumentWriter(folder, "part"))
                    dropped[reason].write(document)
                    continue
                split = "heldout" if self.is_heldout(row) else "train"
                splits[split].add(self.index.digest(row))
                writers[split].write(document)
                first_id = document.id
                for copy in range(2, self.copies.get(row, 1) + 1):
                    document.id = f"{first_id}@{copy}"
                    writers[split].write(document)
            assert not splits["train"] & splits["heldout"], "the splits share a text"
            self.written = Written(
                writers["train"].num_documents,
                writers["heldout"].num_documents,
                writers["train"].num_bytes,
                writers["heldout"].num_bytes,
            )
        self._write_duplicates()
        return self.written

    def _write_duplicates(self) -> None:
        """`duplicates.jsonl.zst`: who was dropped as a copy of whom, clusters together."""
        pairs = sorted((kept, row) for row, kept in self.index.duplicate_of.items())
        lines = [
            json.dumps(
                {
                    "kept": self._ids[kept],
                    "dropped": self._ids[row],
                    "kind": self.index.reason(row),
                    "similarity": self.index.similarity.get(row, 1.0),
                },
                ensure_ascii=False,
            )
            for kept, row in pairs
        ]
        if lines:
            packed = zstandard.ZstdCompressor(level=3).compress(("\n".join(lines) + "\n").encode())
            (self.out_dir / "duplicates.jsonl.zst").write_bytes(packed)
