"""What the footer and the page headers of a Parquet file say of its columns.

pyarrow 26 ends the whole process where it is asked for the metadata of a damaged column: the
exception of C++ ("histogram size mismatch") leaves `RowGroupMetaData.column` uncaught. Its reader
of rows catches it. So the few numbers that are needed before rows are read come from here: Thrift's
compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md), field numbers of
parquet.thrift.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

# As pyarrow's limit; the values in it become objects of up to a hundred times its bytes.
MAX_FOOTER_BYTES, MAX_VALUES = 100_000_000, 4_000_000
# Longest as in pyarrow; pages may be empty, so their number is no bound of the time they take.
PAGE_HEADER_BYTES, MAX_PAGE_HEADER_BYTES, MAX_PAGES = 1 << 13, 16 << 20, 500_000
MAX_DEPTH = 16
STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS = (4, 5, 6)
UUID = 13
MAGIC = b"PAR1"
# Of the enum Encoding: DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY.
DELTA_ENCODINGS = frozenset({5, 6, 7})


class FooterError(ValueError):
    """The footer is not as parquet.thrift describes it."""


@dataclass(frozen=True)
class ColumnChunk:
    """One column of one row group, sizes in bytes."""

    names: tuple[str, ...]  # from the table's column to the innermost
    delta_coded: bool
    start: int
    compressed_size: int


@dataclass(frozen=True)
class RowGroup:
    """Some rows of every column."""

    num_rows: int
    columns: list[ColumnChunk]


@dataclass(frozen=True)
class Pages:
    """What the pages of some columns hold, lists' empty places and page headers counted."""

    count: int
    num_values: int
    uncompressed_size: int


def read_pages(file: BinaryIO, column: ColumnChunk, max_pages: int = MAX_PAGES) -> Pages:
    """The pages of a column, by their headers. Raises FooterError.

    The footer has sums of these, which nothing compares with them before memory is taken.
    """
    at, end = column.start, column.start + column.compressed_size
    count = num_values = uncompressed_size = 0
    try:
        while at < end:
            count += 1
            if count > max_pages:
                raise FooterError(f"more than {MAX_PAGES} pages")
            page, length = _page_header(file, at, end)
            if page[2] < 0 or page[3] < 0:
                raise FooterError("a page of less than no bytes")
            num_values += sum(page[kind][1] for kind in (5, 8) if kind in page)  # data, version 2
            uncompressed_size += length + page[2]
            at += length + page[3]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(error) from error
    return Pages(count, num_values, uncompressed_size)


def _page_header(file: BinaryIO, at: int, end: int) -> tuple[dict[int, Any], int]:
    """A header and its length in bytes."""
    for size in (PAGE_HEADER_BYTES, MAX_PAGE_HEADER_BYTES):
        file.seek(at)
        reader = _Compact(file.read(min(size, end - at)))
        try:
            return reader.structure(0), reader.at
        except (LookupError, FooterError):
            if size == MAX_PAGE_HEADER_BYTES:
                raise
    raise AssertionError("the last size raises")


def read_row_groups(file: BinaryIO) -> list[RowGroup]:
    """The row groups of a file. Raises FooterError."""
    end = file.seek(0, 2)
    if end < 12:
        raise FooterError("the file ends before its footer")
    file.seek(end - 8)
    length, magic = struct.unpack("<I4s", file.read(8))
    if magic != MAGIC or length > end - 12:
        raise FooterError("no footer at the end of the file")
    if length > MAX_FOOTER_BYTES:
        raise FooterError(f"a footer of {length} bytes")
    file.seek(end - 8 - length)
    try:
        about = _Compact(file.read(length)).structure(0)
        return [
            RowGroup(int(group[3]), [_column(chunk[3]) for chunk in group[1]]) for group in about[4]
        ]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> FooterError:
    return FooterError(f"damaged footer ({type(error).__name__}: {error})")


def _column(about: dict[int, Any]) -> ColumnChunk:
    names = tuple(name.decode("utf-8") for name in about[3])
    if not names:
        raise FooterError("a column without a name")
    delta_coded = not DELTA_ENCODINGS.isdisjoint(about[2])
    # As pyarrow: a dictionary counts where it lies before the data.
    start = min(about[9], about.get(11, 0) if about.get(11, 0) > 0 else about[9])
    if start < 0:
        raise FooterError("a column before the file")
    return ColumnChunk(names, delta_coded, start, int(about[7]))


class _Compact:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self._num_values = 0

    def structure(self, depth: int) -> dict[int, Any]:
        """Values by field number."""
        values: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) & 15 != STOP:
            number = number + (head >> 4) if head >> 4 else self._integer()
            # Numbers have 16 bits: pyarrow takes 65541 for 5.
            if not 0 < number < 1 << 15:
                raise FooterError(f"no field {number}")
            # Two readers would differ in which of them counts.
            if number in values:
                raise FooterError(f"field {number} twice")
            kind = head & 15
            values[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth)
        return values

    def _value(self, kind: int, depth: int) -> Any:
        self._num_values += 1
        if depth > MAX_DEPTH:
            raise FooterError("nested too deep")
        if self._num_values > MAX_VALUES:
            raise FooterError(f"more than {MAX_VALUES} values")
        if kind in INTEGERS:
            return self._integer()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (LIST, SET):
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(size)]
        if kind == STRUCT:
            return self.structure(depth + 1)
        if kind in (TRUE, FALSE, BYTE):  # in a list; as fields, truth values take no byte
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == UUID:
            return self._bytes(16)
        if kind == MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)
            return None
        raise FooterError(f"no type {kind}")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise FooterError("a number of more than 64 bits")

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _bytes(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise FooterError("a text longer than the footer")
        self.at += size
        return self._data[self.at - size : self.at]
