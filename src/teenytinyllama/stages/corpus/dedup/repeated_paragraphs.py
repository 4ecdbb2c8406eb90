"""Paragraphs that stand in many documents: menus, licences, footers. The first few stay.

A paragraph is a line of some length. Hashes of lines go to disk in parts by their first bits; one
part is in memory at a time, so memory does not grow with the corpus but by what is cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teenytinyllama.settings.data_preparation import RepeatedParagraphSettings
from teenytinyllama.stages.corpus.document_index import Index

NUM_PARTS = 64
_ROW = np.dtype([("hash", "<u8"), ("row", "<i8")])


def paragraph_hashes(text: str, min_characters: int) -> list[int]:
    """Hash of every line, 0 for one that is too short to count."""
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

    def cuts(self, index: Index, settings: RepeatedParagraphSettings) -> Cuts:
        """Each paragraph to cut: from all documents but the first `max_documents` that stay."""
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
        return Cuts(all_rows[order], all_hashes[order], settings.min_characters)


class Cuts:
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
