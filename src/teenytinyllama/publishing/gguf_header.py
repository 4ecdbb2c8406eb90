"""The strings in a GGUF file's header, read with bounds: counts in the file are not trusted.

Layout: magic, version, number of tensors, number of keys; then keys with typed values, then
tensors with shapes and offsets (the GGUF specification of ggml, version 3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from teenytinyllama.errors import UserError

MAX_KEYS, MAX_TENSORS, MAX_DIMENSIONS = 10_000, 100_000, 4
STRING, ARRAY = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def read_gguf_texts(path: Path) -> Iterator[str]:
    """Every string of the header: keys, values, tensor names.

    Raises UserError where a count or a length exceeds the file's size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            yield from _HeaderReader(file, size).texts()
        except (struct.error, ValueError) as error:
            what = f"is not a readable GGUF file ({error})"
            raise UserError(
                "gguf-damaged", str(path), what, "ttl quantize RECIPE --redo"
            ) from error


class _HeaderReader:
    """Reads a header and checks every length against the bytes left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def texts(self) -> Iterator[str]:
        magic, version, tensors, keys = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("wrong magic or version")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise ValueError(f"{tensors:,} tensors and {keys:,} keys")
        for _ in range(keys):
            yield self._string()
            yield from self._value(self._take("<I")[0])
        for _ in range(tensors):
            yield self._string()
            (dimensions,) = self._take("<I")
            if dimensions > MAX_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            shape = self._take(f"<{dimensions}Q")
            _, offset = self._take("<IQ")
            if offset > self.size or any(length > 1 << 40 for length in shape):
                raise ValueError(f"a tensor of shape {shape} at byte {offset:,}")

    def _value(self, kind: int) -> Iterator[str]:
        if kind == STRING:
            yield self._string()
        elif kind == ARRAY:
            inner, count = self._take("<IQ")
            # An item has at least one byte, a string eight.
            if count * WIDTHS.get(inner, 8) > self._left() or inner == ARRAY:
                raise ValueError(f"an array of {count:,}")
            if inner == STRING:
                for _ in range(count):
                    yield self._string()
            else:
                self.file.seek(count * self._width(inner), 1)
        else:
            self.file.seek(self._width(kind), 1)

    def _width(self, kind: int) -> int:
        if kind not in WIDTHS:
            raise ValueError(f"a value of unknown type {kind}")
        return WIDTHS[kind]

    def _string(self) -> str:
        (length,) = self._take("<Q")
        if length > self._left():
            raise ValueError(f"a string of {length:,} bytes")
        return self.file.read(length).decode("utf-8", "replace")

    def _take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.file.read(struct.calcsize(layout)))

    def _left(self) -> int:
        return self.size - self.file.tell()
