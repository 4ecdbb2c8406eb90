"""Parquet files whose footer does not say what their pages hold."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

# total_uncompressed_size follows num_values: one field further, 64 bits (Thrift, compact protocol).
NEXT_I64 = b"\x16"


def say_small(path: Path) -> None:
    """Make the footer say that every column takes 100 bytes uncompressed."""
    about = pq.read_metadata(path)
    data = path.read_bytes()
    cut = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[cut:]
    for group in range(about.num_row_groups):
        for number in range(about.num_columns):
            true = _varint(2 * about.row_group(group).column(number).total_uncompressed_size)
            footer = footer.replace(NEXT_I64 + true, NEXT_I64 + _varint(200, len(true)))
    path.write_bytes(data[:cut] + footer)


def _varint(number: int, size: int = 1) -> bytes:
    """In at least `size` bytes: zeros at its end are allowed."""
    parts = []
    while number or len(parts) < size:
        parts.append(number & 127 | 128)
        number >>= 7
    parts[-1] &= 127
    return bytes(parts)
