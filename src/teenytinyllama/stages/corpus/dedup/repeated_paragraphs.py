"""`ParagraphHashes` and `RepeatedParagraphs`: lines that many documents share, as footers do.

A paragraph is a line of some length. The first `max_documents` documents keep it. Hashes of lines
go to disk in parts by their first bits; one part is in memory at a time, so memory does not grow
with the corpus but with what is cut.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.data_preparation import CorpusSettings, RepeatedParagraphSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import (
    DocumentBatch,
    DocumentStep,
    IndexEntry,
    StepConfig,
    is_prose,
)
from teenytinyllama.stages.corpus.dedup.exact_duplicates import digest_of
from teenytinyllama.stages.corpus.staging import CorpusState, CorpusStep, DocumentIndex

NUM_PARTS = 64
_ROW = np.dtype([("hash", "<u8"), ("row", "<i8")])


class ParagraphHashes(DocumentStep):
    """Gives each document of prose the hashes of its lines that are long enough to count."""

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """On unless the recipe sets `repeated_paragraphs` to none."""
        return config.settings.repeated_paragraphs is not None

    def applies_to(self, source: Source) -> bool:
        """Prose only."""
        return is_prose(source)

    def apply(self, batch: DocumentBatch) -> None:
        """Annotate."""
        assert self.settings.repeated_paragraphs is not None
        min_characters = self.settings.repeated_paragraphs.min_characters
        for one in batch.remaining():
            hashes = paragraph_hashes(one.text, min_characters)
            one.paragraph_hashes = array("Q", filter(None, hashes)).tobytes()


class RepeatedParagraphs(CorpusStep):
    """Cuts such lines from all documents but the first few that stay."""

    needs_all_documents = True

    def __init__(self, state: CorpusState) -> None:
        super().__init__(state)
        assert state.settings.repeated_paragraphs is not None
        self._settings = state.settings.repeated_paragraphs
        self._store = ParagraphStore(state.work_dir / "paragraphs")
        self._min_bytes = max(state.settings.min_document_bytes, 1)

    @classmethod
    def is_wanted(cls, settings: CorpusSettings) -> bool:
        """On unless the recipe sets `repeated_paragraphs` to none."""
        return settings.repeated_paragraphs is not None

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """Store the hashes of documents that may stay."""
        rows, hashes = [], []
        for row, entry in enumerate(entries, start=first_row):
            if entry.paragraph_hashes and not self.state.index.reasons[row]:
                rows.append(row)
                hashes.append(np.frombuffer(entry.paragraph_hashes, np.uint64))
        self._store.add(rows, hashes)

    def decide(self) -> None:
        """Find the paragraphs to cut: only documents that all other steps keep count."""
        self._filter = self._store.repeated(self.state.index, self._settings)

    def revise(self, row: int, document: Document) -> None:
        """Cut paragraphs; a document of which too little is left is dropped as it was."""
        text, num_cut = self._filter.cut(row, document.text)
        if not num_cut:
            return
        if len(text.encode("utf-8")) < self._min_bytes or not text.strip():
            self.state.index.drop(row, "repeated-paragraphs")
            return
        document.text = text
        self.state.index.edited_digests[row] = digest_of(text)
        self.state.notes["repeated-paragraphs-cut"] += num_cut


def paragraph_hashes(text: str, min_characters: int) -> list[int]:
    """64-bit hash of every line, 0 for a line that is too short to count."""
    return [
        int.from_bytes(hashlib.blake2b(line.encode("utf-8"), digest_size=8).digest(), "little")
        if len(line) >= min_characters
        else 0
        for line in map(str.strip, text.split("\n"))
    ]


class ParagraphStore:
    """(hash, row) of every paragraph of every document that may stay, on disk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._paths = [folder / f"{part:02d}" for part in range(NUM_PARTS)]
        self._files = [path.open("wb") for path in self._paths]

    def add(self, rows: Sequence[int], hashes: Sequence[npt.NDArray[np.uint64]]) -> None:
        """The paragraphs of some documents."""
        if not rows:
            return
        made = np.empty(sum(map(len, hashes)), _ROW)
        made["hash"] = np.concatenate(hashes)
        made["row"] = np.repeat(np.asarray(rows, np.int64), [len(part) for part in hashes])
        parts = (made["hash"] >> np.uint64(58)).astype(np.int64)
        order = np.argsort(parts, kind="stable")
        bounds = np.searchsorted(parts[order], np.arange(NUM_PARTS + 1))
        for part in np.unique(parts).tolist():
            self._files[part].write(made[order[bounds[part] : bounds[part + 1]]].tobytes())

    def repeated(
        self, index: DocumentIndex, settings: RepeatedParagraphSettings
    ) -> ParagraphFilter:
        """The paragraphs to cut from all documents but the first `max_documents` that stay."""
        dropped = np.asarray(index.reasons, np.int32) != 0
        rows, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        for path, file in zip(self._paths, self._files, strict=True):
            file.close()
            found = np.fromfile(path, _ROW)
            found = np.unique(found[~dropped[found["row"]]])
            starts = np.flatnonzero(np.r_[True, found["hash"][1:] != found["hash"][:-1]])
            starts = starts[: len(found)]
            lengths = np.diff(np.r_[starts, len(found)])
            place = np.arange(len(found)) - np.repeat(starts, lengths)
            late = found[place >= settings.max_documents]
            rows.append(late["row"])
            hashes.append(late["hash"])
        all_rows, all_hashes = np.concatenate(rows), np.concatenate(hashes)
        order = np.argsort(all_rows, kind="stable")
        return ParagraphFilter(all_rows[order], all_hashes[order], settings.min_characters)


class ParagraphFilter:
    """Which paragraphs to cut from which document."""

    def __init__(
        self, rows: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64], min_characters: int
    ) -> None:
        self._rows, self._hashes, self._min_characters = rows, hashes, min_characters

    def cut(self, row: int, text: str) -> tuple[str, int]:
        """The document's text without its repeated paragraphs, and how many lines were cut."""
        start, end = np.searchsorted(self._rows, [row, row + 1])
        if start == end:
            return text, 0
        wanted = set(self._hashes[start:end].tolist())
        lines = text.split("\n")
        found = paragraph_hashes(text, self._min_characters)
        stay = [line for line, number in zip(lines, found, strict=True) if number not in wanted]
        return "\n".join(stay), len(lines) - len(stay)
