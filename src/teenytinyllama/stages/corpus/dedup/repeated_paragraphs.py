"""`ParagraphHashes` and `RepeatedParagraphs`: lines that many documents share, as footers do.

A paragraph is a line of some length. The first `max_documents` documents keep it. Hashes of lines
go to disk in parts by their first bits; one part is in memory at a time, so memory does not grow
with the corpus but with what is cut.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.languages.segmentation import spaced_length
from teenytinyllama.stages.corpus.batches import DocumentBatch, DocumentStep, IndexEntry
from teenytinyllama.stages.corpus.dedup.exact_duplicates import digest_of
from teenytinyllama.stages.corpus.staging import CorpusState, CorpusStep

NUM_PARTS = 64
_ROW = np.dtype([("hash", "<u8"), ("row", "<i8")])


class ParagraphHashes(DocumentStep):
    """Gives each document of prose the hashes of its lines that are long enough to count."""

    setting = "repeated_paragraphs"
    prose_only = True

    def apply(self, batch: DocumentBatch) -> None:
        """Annotate."""
        assert self.settings.repeated_paragraphs is not None
        min_characters = self.settings.repeated_paragraphs.min_characters
        for one in batch.remaining():
            hashes = paragraph_hashes(one.text, min_characters)
            one.paragraph_hashes = array("Q", filter(None, hashes)).tobytes()


class RepeatedParagraphs(CorpusStep):
    """Cuts such lines from all documents but the first few that stay."""

    setting = "repeated_paragraphs"
    needs_all_documents = True

    def __init__(self, state: CorpusState) -> None:
        super().__init__(state)
        assert state.settings.repeated_paragraphs is not None
        self._settings = state.settings.repeated_paragraphs
        self._min_bytes = max(state.settings.min_document_bytes, 1)
        folder = state.work_dir / "paragraphs"
        folder.mkdir()
        self._paths = [folder / f"{part:02d}" for part in range(NUM_PARTS)]
        self._files = [path.open("wb") for path in self._paths]

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """Store (hash, row) of every paragraph of documents that may stay."""
        hashes = [
            np.frombuffer(b"" if reason else entry.paragraph_hashes, np.uint64)
            for entry, reason in zip(entries, self.state.index.reasons[first_row:], strict=True)
        ]
        found = np.empty(sum(map(len, hashes)), _ROW)
        if not len(found):
            return
        found["hash"] = np.concatenate(hashes)
        found["row"] = np.repeat(np.arange(len(hashes)) + first_row, list(map(len, hashes)))
        parts = (found["hash"] >> np.uint64(58)).astype(np.int64)
        order = np.argsort(parts, kind="stable")
        bounds = np.searchsorted(parts[order], np.arange(NUM_PARTS + 1))
        for part in np.unique(parts).tolist():
            self._files[part].write(found[order[bounds[part] : bounds[part + 1]]].tobytes())

    def decide(self) -> None:
        """Find the paragraphs to cut: only documents that all other steps keep count."""
        dropped = np.asarray(self.state.index.reasons, np.int32) != 0
        cuts = [np.empty(0, _ROW)]
        for path, file in zip(self._paths, self._files, strict=True):
            file.close()
            found = np.fromfile(path, _ROW)
            found = np.unique(found[~dropped[found["row"]]])
            starts = np.flatnonzero(np.r_[True, found["hash"][1:] != found["hash"][:-1]])
            starts = starts[: len(found)]
            lengths = np.diff(np.r_[starts, len(found)])
            place = np.arange(len(found)) - np.repeat(starts, lengths)
            cuts.append(found[place >= self._settings.max_documents])
        self._cuts = np.concatenate(cuts)
        self._cuts = self._cuts[np.argsort(self._cuts["row"], kind="stable")]

    def revise(self, row: int, document: Document) -> None:
        """Cut paragraphs; a document of which too little is left is dropped as it was."""
        start, end = np.searchsorted(self._cuts["row"], [row, row + 1])
        if start == end:
            return
        repeated = set(self._cuts["hash"][start:end].tolist())
        lines = document.text.split("\n")
        hashes = paragraph_hashes(document.text, self._settings.min_characters)
        kept = [line for line, hash_ in zip(lines, hashes, strict=True) if hash_ not in repeated]
        text = "\n".join(kept)
        if len(text.encode("utf-8")) < self._min_bytes or not text.strip():
            self.state.index.drop(row, "repeated-paragraphs")
            return
        document.text = text
        self.state.index.edited_digests[row] = digest_of(text)
        self.state.notes["repeated-paragraphs-cut"] += len(lines) - len(kept)


def paragraph_hashes(text: str, min_characters: int) -> list[int]:
    """64-bit hash of every line, 0 for a line that is too short to count."""
    return [
        int.from_bytes(hashlib.blake2b(line.encode("utf-8"), digest_size=8).digest(), "little")
        if spaced_length(line) >= min_characters
        else 0
        for line in map(str.strip, text.split("\n"))
    ]
