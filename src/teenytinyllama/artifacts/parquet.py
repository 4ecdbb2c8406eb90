"""Rows of Parquet files in bounded memory.

One value that a million rows share is written once, and a page may compress ten thousand times: a
file of 1 kB can hold gigabytes. Columns of text stay dictionaries until a row is made, and what a
row would take is known before it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from teenytinyllama.artifacts.decompression import (
    BOMB_AFTER_BYTES,
    BOMB_RATIO,
    DamagedFileError,
    refuse_archives,
)
from teenytinyllama.artifacts.parquet_footer import (
    MAX_PAGES,
    FooterError,
    RowGroup,
    read_pages,
    read_row_groups,
)
from teenytinyllama.errors import missing_extra
from teenytinyllama.regular_files import open_regular

ROWS_PER_BATCH = 1000
SLICE_BYTES, MAX_ROW_BYTES = 32 << 20, 256 << 20
BATCH_BYTES = 64 << 20
# Each value of a column of differences may repeat the one before it for no bytes, and cannot stay
# in a dictionary, so few rows are read at once.
DELTA_ROWS_PER_BATCH = 16


class BadRowError(Exception):
    """A row that is no row of values: text that is not UTF-8, a date beyond the calendar."""


def parquet_rows(
    path: Path,
    columns: Callable[[Sequence[str]], Collection[str]] | None = None,
    row_groups: Sequence[int] | None = None,
) -> Iterator[dict[str, Any] | BadRowError]:
    """Every row, or the reason why a row is none; `columns` chooses from the table's names.

    `row_groups`: the rows of these only. Text that was written as bytes is decoded. Raises
    DamagedFileError where the file cannot be read, or not in bounded memory.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "corpus") from error
    with open_regular(path) as file:
        head = file.read(512)
    if not head.startswith(b"PAR1"):
        refuse_archives(head, path)
    try:
        with open_regular(path) as file:
            footer = read_row_groups(file)
        columns_found = [column for group in footer for column in group.columns]
        deltas = {".".join(column.names) for column in columns_found if column.delta_coded}
        about = parquet.read_metadata(path)
        leaves = [about.schema.column(place) for place in range(about.num_columns)]
        texts = [
            leaf.path
            for leaf in leaves
            if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in deltas
        ]
        table = parquet.ParquetFile(path, metadata=about, read_dictionary=texts)
        names = table.schema_arrow.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise DamagedFileError("table-damaged", f"two columns are called {twice[0]}")
        wanted = [name for name in names if name in columns(names)] if columns else names
        size = path.stat().st_size
        groups = footer if row_groups is None else [footer[place] for place in row_groups]
        with open_regular(path) as file:
            rows_per_batch = _check_sizes(file, groups, set(wanted), size)
        if deltas:
            rows_per_batch = min(rows_per_batch, DELTA_ROWS_PER_BATCH)
        made = 0
        for batch in table.iter_batches(rows_per_batch, row_groups, wanted):
            for part, num_bytes in _slices(batch):
                made += num_bytes
                yield from _values(part)
                if made > BOMB_AFTER_BYTES and made > BOMB_RATIO * size:
                    raise _bomb(f"grew {BOMB_RATIO} times, stopped at {made}")
    except (arrow.ArrowException, OSError, FooterError, UnicodeDecodeError) as error:  # a name
        detail = (str(error).splitlines() or ["?"])[0][:200]
        raise DamagedFileError("table-damaged", detail) from error


def _bomb(detail: str) -> DamagedFileError:
    return DamagedFileError("decompression-bomb", detail)


def _check_sizes(
    file: BinaryIO, row_groups: Sequence[RowGroup], wanted: set[str], size: int
) -> int:
    """Rows to read at once. Raises DamagedFileError for a column that cannot be text."""
    largest = 1.0
    pages_left = MAX_PAGES
    for group in row_groups:
        total, num_rows = 0, group.num_rows
        for column in group.columns:
            if column.names[0] not in wanted:
                continue
            # Lists: equal lengths and nulls take no bytes, each value some in memory.
            pages = read_pages(file, column, pages_left)
            pages_left -= pages.count
            for grown in (pages.uncompressed_size, pages.num_values):
                if grown > BOMB_AFTER_BYTES and grown > BOMB_RATIO * size:
                    raise _bomb(
                        f"column {'.'.join(column.names)}: {grown} in a file of {size} bytes"
                    )
            total += pages.uncompressed_size
            num_rows = min(num_rows, pages.num_values)
        largest = max(largest, total / max(num_rows, 1))
    return int(min(max(BATCH_BYTES / largest, 1), ROWS_PER_BATCH))


def _slices(batch: Any) -> Iterator[tuple[Any, int]]:
    """A batch in parts of which none takes much memory as values, each with its bytes."""
    num_bytes = sum(_text_bytes(column) for column in batch.columns)
    if num_bytes <= SLICE_BYTES or batch.num_rows <= 1:
        if num_bytes > MAX_ROW_BYTES:
            raise _bomb(f"a row of {num_bytes} bytes")
        yield batch, num_bytes
        return
    half = batch.num_rows // 2
    yield from _slices(batch.slice(0, half))
    yield from _slices(batch.slice(half))


def _text_bytes(array: Any) -> int:
    """Bytes of the values of an array once each is an object of its own."""
    import pyarrow as arrow
    import pyarrow.compute as compute

    kind = array.type
    if arrow.types.is_dictionary(kind):
        lengths = compute.binary_length(array.dictionary).cast("int64")
        return int(compute.sum(lengths.take(array.indices)).as_py() or 0)
    if arrow.types.is_map(kind):
        return _text_bytes(array.keys) + _text_bytes(array.items)
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind):
        return 8 * len(array) + _text_bytes(array.flatten())
    if arrow.types.is_struct(kind):
        return sum(_text_bytes(part) for part in array.flatten())
    return int(array.nbytes)


def _values(part: Any) -> Iterator[dict[str, Any] | BadRowError]:
    try:
        rows: list[dict[str, Any]] = part.to_pylist()
    except (ValueError, OverflowError) as error:
        if part.num_rows == 1:
            yield BadRowError(str(error)[:200])
            return
        for place in range(part.num_rows):
            yield from _values(part.slice(place, 1))
        return
    yield from map(_decoded, rows)


def _decoded(row: dict[str, Any]) -> dict[str, Any] | BadRowError:
    for name, value in row.items():
        if isinstance(value, bytes):
            try:
                row[name] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                return BadRowError(f"{name}: {error}"[:200])
    return row
