"""The texts between the two passes, on disk, in packed frames of one batch each."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard


class Spool:
    """Frames in reading order; rows are counted over all of them, as in the index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._sizes, self._counts = array("q"), array("q")

    def add(self, frame: bytes, count: int) -> None:
        """One packed frame that holds `count` documents."""
        if count:
            self._file.write(frame)
            self._sizes.append(len(frame))
            self._counts.append(count)

    def close(self) -> None:
        """No more frames: from here on it is read."""
        self._file.close()

    def batches(self, wanted: set[int] | None = None) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """(row, record) of the wanted documents or of all, frame by frame, in order."""
        unpack = zstandard.ZstdDecompressor()
        first = 0
        with self.path.open("rb") as file:
            for size, count in zip(self._sizes, self._counts, strict=True):
                rows = range(first, first + count)
                first += count
                if wanted is not None and wanted.isdisjoint(rows):
                    file.seek(size, 1)
                    continue
                lines = unpack.decompress(file.read(size)).split(b"\n")
                yield [
                    (row, json.loads(line))
                    for row, line in zip(rows, lines, strict=True)
                    if wanted is None or row in wanted
                ]
