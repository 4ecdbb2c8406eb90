"""Writes what was decided: the two splits, what was dropped with its text, and who copies whom."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import zstandard

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.stages.corpus.corpus_stats import Ledger, heading_of
from teenytinyllama.stages.corpus.dedup.repeated_paragraphs import Cuts
from teenytinyllama.stages.corpus.document_index import Index
from teenytinyllama.stages.corpus.readers.record_parser import digest_of
from teenytinyllama.stages.corpus.staging import Spool

DROPPED_DIR = "dropped"


@dataclass(slots=True)
class Written:
    """What stands on disk after the last pass."""

    documents_train: int = 0
    documents_heldout: int = 0
    bytes_train: int = 0
    bytes_heldout: int = 0
    lines_cut: int = 0


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
        cuts: Cuts | None,
        min_document_bytes: int,
    ) -> None:
        self.out_dir, self.index, self.ledger = out_dir, index, ledger
        self.is_heldout, self.copies, self.cuts = is_heldout, copies, cuts
        self.min_document_bytes = max(min_document_bytes, 1)
        self.num_lines_cut = 0
        self._final: dict[bytes, int] = {}

    def run(self, spool: Spool) -> Written:
        """Write everything. The two splits share no text: asserted."""
        title = "corpus: write"
        with ExitStack() as stack, Progress(title, total=len(self.index), unit="documents") as work:
            writers = {
                name: stack.enter_context(DocumentWriter(self.out_dir, name))
                for name in ("train", "heldout")
            }
            for row, record in chain.from_iterable(spool.batches()):
                work.advance()
                document = self._finished(row, Document(**record))
                reason = self.index.reason(row)
                source, size = self.index.source(row), self.index.num_bytes[row]
                self.ledger.add(source, heading_of(reason), reason, size)
                if reason and reason not in writers:
                    folder = self.out_dir / DROPPED_DIR / reason
                    writers[reason] = stack.enter_context(DocumentWriter(folder, "part"))
                split = "heldout" if self.is_heldout(row) else "train"
                writers[reason or split].write(document)
                for copy in range(2, 1 if reason else self.copies.get(row, 1) + 1):
                    writers[split].write(replace(document, id=f"{document.id}@{copy}"))
        self._assert_apart()
        self._write_duplicates(spool)
        return Written(
            writers["train"].num_documents,
            writers["heldout"].num_documents,
            writers["train"].num_bytes,
            writers["heldout"].num_bytes,
            self.num_lines_cut,
        )

    def _finished(self, row: int, document: Document) -> Document:
        """The document with its own id and without repeated paragraphs.

        Where nothing much remains, or what remains is another document's text, it is dropped.
        """
        document.id = self._id_of(row, document.id)
        if self.index.reasons[row]:
            return document
        digest = self.index.digest(row)
        text, num_cut = self.cuts.cut(row, document.text) if self.cuts else (document.text, 0)
        if num_cut:
            if len(text.encode("utf-8")) < self.min_document_bytes or not text.strip():
                self.index.drop(row, "repeated-paragraphs")
                return document
            digest = digest_of(text)
            document.text = text
            self.num_lines_cut += num_cut
        first = self._final.setdefault(digest, row)
        if first != row:
            self.index.drop(row, "duplicate-exact", duplicate_of=first)
        return document

    def _id_of(self, row: int, given: str) -> str:
        """The document's id, told apart from equal ones before it."""
        return f"{given}#{self.index.renamed[row]}" if row in self.index.renamed else given

    def _assert_apart(self) -> None:
        splits: dict[bool, set[bytes]] = {True: set(), False: set()}
        for digest, row in self._final.items():
            splits[self.is_heldout(row)].add(digest)
        assert not splits[True] & splits[False], "the splits share a text"

    def _write_duplicates(self, spool: Spool) -> None:
        """`duplicates.jsonl.zst`: who was dropped as a copy of whom, clusters together."""
        index = self.index
        pairs = sorted((kept, row) for row, kept in index.duplicate_of.items())
        if not pairs:
            return
        wanted = {row for pair in pairs for row in pair}
        found = chain.from_iterable(spool.batches(wanted))
        ids = {row: self._id_of(row, record["id"]) for row, record in found}
        lines = [
            json.dumps(
                {
                    "kept": ids[kept],
                    "dropped": ids[row],
                    "kind": index.reason(row),
                    "similarity": index.similarity.get(row, 1.0),
                },
                ensure_ascii=False,
            )
            for kept, row in pairs
        ]
        packed = zstandard.ZstdCompressor(level=3).compress(("\n".join(lines) + "\n").encode())
        (self.out_dir / "duplicates.jsonl.zst").write_bytes(packed)
