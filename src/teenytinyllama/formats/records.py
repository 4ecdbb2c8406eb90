"""Records of local files, one by one, each with its place: JSONL, JSON, CSV, TSV, parquet.

`.gz` and `.zst` are unpacked on the way. A line that is no record comes as a fault with its place,
so that the reader decides: labelled sets stop there, conversations are set aside and counted.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from teenytinyllama.errors import UserError, missing_extra

LINE_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
PACKED_SUFFIXES = (".gz", ".zst")
RECORD_SUFFIXES = (*LINE_SUFFIXES, ".json", *TABLE_SUFFIXES, ".parquet")
MAX_FIELD_CHARACTERS = 1 << 24


@dataclass(frozen=True)
class Record:
    """One record of a file, or why there is none at this place."""

    path: Path
    line: int
    """Line or row, from 1."""
    fields: dict[str, Any]
    fault: str = ""
    raw: str = ""
    """The beginning of what stands there, where it is at fault."""

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return f"{self.path}:{self.line}"


def suffix_of(path: Path) -> str:
    """The suffix that tells how a file is read, packing left out: `.jsonl` for `a.jsonl.gz`."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in PACKED_SUFFIXES]
    return suffixes[-1] if suffixes else ""


def read_records(path: Path) -> Iterator[Record]:
    """Every record of a file. Raises UserError where the file as a whole cannot be read."""
    suffix = suffix_of(path)
    if suffix not in RECORD_SUFFIXES:
        raise UserError(
            "file-kind",
            str(path),
            f'unknown kind of file "{path.name}"',
            f"give {', '.join(RECORD_SUFFIXES)} (also .gz, .zst)",
        )
    if suffix == ".parquet":
        yield from _table_rows(path)
        return
    try:
        with _open(path) as binary:
            if suffix in TABLE_SUFFIXES:
                yield from _csv_rows(path, binary, TABLE_SUFFIXES[suffix])
            elif suffix == ".json":
                yield from _json_items(path, binary.read())
            else:
                yield from _json_lines(path, binary)
    except (OSError, EOFError) as error:
        raise _unreadable(path, str(error)) from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str) -> UserError:
    what = f"cannot be read ({(reason.splitlines() or ['?'])[0][:160]})"
    return UserError("file-unreadable", str(path), what, "fetch or write it again")


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if path.suffix.lower() == ".zst":
        import zstandard

        return io.BufferedReader(zstandard.open(path, "rb"))
    return path.open("rb")


def _json_lines(path: Path, file: IO[bytes]) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield _json_record(path, number, line)


def _json_record(path: Path, number: int, line: bytes) -> Record:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _fault(path, number, f"not UTF-8 at byte {error.start}", line)
    except ValueError as error:
        return _fault(path, number, f"not JSON ({str(error)[:80]})", line)
    except RecursionError:
        return _fault(path, number, "JSON nested too deep", line)
    if not isinstance(value, dict):
        return _fault(path, number, f"not an object but {type(value).__name__}", line)
    return Record(path, number, value)


def _fault(path: Path, number: int, fault: str, raw: bytes) -> Record:
    return Record(path, number, {}, fault, raw[:200].decode("utf-8", "backslashreplace"))


def _json_items(path: Path, data: bytes) -> Iterator[Record]:
    """A file that is one JSON list of objects; items are numbered as lines are."""
    try:
        items = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"not JSON: {error}") from error
    if not isinstance(items, list):
        raise _unreadable(path, f"expected a list of objects, got {type(items).__name__}")
    for number, item in enumerate(items, start=1):
        if isinstance(item, dict):
            yield Record(path, number, item)
        else:
            yield _fault(path, number, f"not an object but {type(item).__name__}", b"")


def _csv_rows(path: Path, file: IO[bytes], delimiter: str) -> Iterator[Record]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(text, delimiter=delimiter)
    names: list[str] = []
    try:
        for row in reader:
            if not names:
                names = row
            elif len(row) == len(names):
                yield Record(path, reader.line_num, dict(zip(names, row, strict=True)))
            elif row:
                fault = f"{len(row)} columns, the header has {len(names)}"
                yield _fault(path, reader.line_num, fault, delimiter.join(row).encode())
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"not UTF-8: {error.reason}") from error
    except csv.Error as error:
        raise _unreadable(path, f"line {reader.line_num}: {error}") from error


def _table_rows(path: Path) -> Iterator[Record]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "corpus") from error
    try:
        number = 0
        for rows in parquet.ParquetFile(path).iter_batches(1000):
            for row in rows.to_pylist():
                number += 1
                yield Record(path, number, row)
    except (arrow.ArrowException, OSError) as error:
        raise _unreadable(path, f"no parquet: {error}") from error


def hub_records(
    path: str, *, config: str, split: str, revision: str, where: str
) -> Iterator[Record]:
    """Rows of a Hugging Face dataset, by id or local folder. Raises UserError with `where`."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra("datasets", "corpus") from error
    try:
        rows = load_dataset(
            path, name=config or None, split=split, revision=revision or None, streaming=True
        )
        for number, row in enumerate(rows, start=1):
            yield Record(Path(path), number, dict(row))
    except Exception as error:  # datasets and the hub share no base class of errors
        raise UserError(
            "hub-unreadable",
            where,
            f'"{path}", split "{split}", cannot be read '
            f"({type(error).__name__}: {(str(error).splitlines() or ['?'])[0][:200]})",
            "check path, config, split and the network; a local folder of the dataset works too",
        ) from error
