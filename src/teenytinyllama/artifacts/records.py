"""Records of local files, one by one, with file and line: JSON, CSV, TSV, Parquet.

JSON Lines, one list of objects and one object are told by their content, whether the file is named
`.json` or `.jsonl`; a compression by its first bytes. A line that is not a record is
returned with an error, and the caller decides: labelled sets stop there, conversations are
quarantined and counted.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from teenytinyllama.artifacts.decompression import (
    COMPRESSED_SUFFIXES,
    DamagedFileError,
    is_html,
    open_decompressed,
)
from teenytinyllama.artifacts.encodings import (
    DAMAGED_BELOW,
    HEAD_BYTES,
    detect_encoding,
    encodings_of,
    iconv_command,
    wide_encoding,
)
from teenytinyllama.artifacts.hub_datasets import stream_dataset
from teenytinyllama.artifacts.parquet import BadRowError, parquet_rows
from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import open_regular

LINE_SUFFIXES = (".jsonl", ".ndjson", ".json")
KINDS = {
    "lines": LINE_SUFFIXES,
    "text": (".txt", ".md", ".text"),
    "html": (".html", ".htm", ".xhtml"),
    "web": (".warc", ".wet"),
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv"),
    "document": (".docx", ".odt", ".epub", ".fb2", ".pdf"),
}
TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
RECORD_SUFFIXES = (*LINE_SUFFIXES, *TABLE_SUFFIXES, ".parquet")
NOT_UTF8 = "not UTF-8"
SAMPLED_LINES = 1000
MAX_FIELD_CHARACTERS = 1 << 24
MAX_DEPTH = 100
MAX_LINE_BYTES = 1 << 28
MAX_LIST_BYTES = 1 << 31
MAX_FIRST_LINE = 1 << 24
WRAPPERS = frozenset(("data", "train", "examples", "items", "records"))
"""Keys under which other programs export all records as one object."""
SEPARATOR = re.compile(r'(?i)"?sep=([,;|\t])"?[,;|\t]*\s*')
"""A first line that tells Excel how the columns are separated."""


@dataclass(frozen=True)
class Record:
    """One record of a file, or the reason why this line is not one."""

    path: Path
    line: int
    """Line or row, from 1."""
    fields: dict[str, Any]
    error: str = ""
    raw: str = ""
    """The first bytes of the line, where it has an error."""
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the numbers in a column, where the data set has them (`ClassLabel`)."""

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return f"{self.path}:{self.line}"


def suffix_of(path: Path) -> str:
    """The suffix that says how to read a file, without compression: `.jsonl` for `a.jsonl.gz`."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in COMPRESSED_SUFFIXES]
    return suffixes[-1] if suffixes else ""


def kind_of(path: Path) -> str:
    """Of `KINDS`, as the name says; "" for what a corpus is not made of."""
    suffix = suffix_of(path)
    kind = next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), "")
    is_packed = path.suffix.lower() in COMPRESSED_SUFFIXES
    return "" if kind == "document" and is_packed else kind


def kind_of_content(path: Path) -> str:
    """As `kind_of`, but `html` or `lines` for a page or JSON Lines that are named as a text.

    Raises OSError, UserError.
    """
    kind = kind_of(path)
    if kind != "text":
        return kind
    with open_regular(path) as file:
        head = file.read(512)
        if is_html(head):
            return "html"
        if head.removeprefix(BOM_UTF8).startswith(b'{"'):
            file.seek(0)
            two = [file.readline(MAX_FIRST_LINE).removeprefix(BOM_UTF8) for _ in range(2)]
            return "lines" if all(map(_is_json, two)) else kind
    return kind


def read_records(path: Path, language: str = "") -> Iterator[Record]:
    """Every record of a file. Raises UserError where the file as a whole cannot be read.

    `language` is that of the text, if known: it tells which encoding a file has that is not UTF-8.
    """
    suffix = suffix_of(path)
    if suffix not in RECORD_SUFFIXES:
        raise UserError(
            "file-kind",
            str(path),
            f'unknown kind of file "{path.name}"',
            f"give {', '.join(RECORD_SUFFIXES)} (also .gz, .zst, .bz2, .xz)",
        )
    if suffix == ".parquet":
        yield from _table_rows(path)
        return
    try:
        with open_decompressed(path) as binary:
            if wide := wide_encoding(binary.peek(1)):
                raise _in_encoding(path, wide, ", from line 1 on")
            if suffix in TABLE_SUFFIXES:
                yield from csv_records(path, binary, language)
            else:
                yield from _json_records(path, binary, language)
    except (OSError, DamagedFileError) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str, fix: str = "fetch or write it again") -> UserError:
    what = f"cannot be read ({(reason.splitlines() or ['?'])[0][:160]})"
    return UserError("file-unreadable", str(path), what, fix)


def is_nested_too_deeply(value: object) -> bool:
    """Whether lists and objects hold each other more than `MAX_DEPTH` deep.

    Python parses a thousand, and then fails to write, compare or print what it parsed.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (
            one.values() if isinstance(one, dict) else one
            for one in level
            if isinstance(one, dict | list)
        )
        level = list(chain.from_iterable(inner))
        if not level:
            return False
    return True


def _json_records(path: Path, file: IO[bytes], language: str) -> Iterator[Record]:
    """Lines of objects, or the items of one list; a file that is one object is one record."""
    start = b""
    while not start:
        line = file.readline(MAX_LINE_BYTES)
        if not line:
            return
        _check_length(path, line)
        start = line.removeprefix(BOM_UTF8).strip()
    is_list = start.startswith(b"[")
    is_whole = not is_list and _is_json(start)
    if is_list or (
        start.startswith(b"{") and not (is_whole and file.readline(MAX_LINE_BYTES).strip())
    ):
        with open_decompressed(path) as whole:
            data = whole.read(MAX_LIST_BYTES)
            if len(data) == MAX_LIST_BYTES and is_list:
                raise _not_lines(path, f"is a list of {MAX_LIST_BYTES >> 30} GiB or more", ".[]")
            try:
                items = json.loads(data.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                is_whole = is_whole or _is_json(start)
                if not is_whole and "Extra data" in str(error) and "line 1 " not in str(error):
                    raise _not_lines(path, "has objects over several lines", ".") from error
                if suffix_of(path) == ".json" and not is_whole:
                    if isinstance(error, UnicodeDecodeError):
                        reason = f"{error.reason} at byte {error.start}"
                        raise _not_utf8(path, reason, language) from error
                    fix = 'check that it is one list "[{...}, ...]", or one object on each line'
                    raise _unreadable(path, f"not JSON: {error}", fix) from error
            else:
                if is_list or not isinstance(items, list):
                    yield from _json_items(path, items)
                    return
    with open_decompressed(path) as whole:
        yield from _json_lines(path, whole, language)


def _not_lines(path: Path, what: str, filter_: str) -> UserError:
    into = shlex.quote(f"{path.name.split('.')[0]}-lines.jsonl")
    fix = f"jq -c '{filter_}' {shlex.quote(str(path))} > {into}"
    return UserError("json-not-lines", str(path), f"{what}, expected one record a line", fix)


def _check_not_wrapped(path: Path, record: Mapping[str, Any]) -> None:
    """Raise UserError for one object that holds all records, as other programs export them."""
    for key in WRAPPERS & record.keys():
        rows = record[key]
        if isinstance(rows, list) and rows and all(isinstance(one, dict) for one in rows):
            raise _not_lines(path, f'is one object with the records in "{key}"', f".{key}[]")
    if record and all(isinstance(value, dict) and "0" in value for value in record.values()):
        rows_of = "[keys[] as $k | .[$k] | to_entries[] | {i: .key, k: $k, v: .value}]"
        rows_of += " | group_by(.i) | sort_by(.[0].i | tonumber)[] | map({(.k): .v}) | add"
        raise _not_lines(path, "is one object with a list of values a column", rows_of)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(path: Path, file: IO[bytes], language: str) -> Iterator[Record]:
    is_certain = False
    lines = iter(lambda: file.readline(MAX_LINE_BYTES), b"")
    for number, line in enumerate(lines, start=1):
        _check_length(path, line)
        line = line.removeprefix(BOM_UTF8)  # of each file, where several were joined
        if line.strip():
            record = _json_record(path, number, line)
            if record.error.startswith(NOT_UTF8) and not is_certain:
                if codec := _encoding_of(path, language):
                    raise _in_encoding(path, codec)
                is_certain = True  # that it is a damaged line, or nobody knows what
            yield record


def _check_length(path: Path, line: bytes) -> None:
    if len(line) == MAX_LINE_BYTES:
        raise _unreadable(path, f"a line of {MAX_LINE_BYTES >> 20} MiB or more", "cut it")


def _json_record(path: Path, number: int, line: bytes) -> Record:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _bad_record(path, number, f"{NOT_UTF8} at byte {error.start}", line)
    except ValueError as error:
        return _bad_record(path, number, f"not JSON ({str(error)[:80]})", line)
    except RecursionError:
        return _bad_record(path, number, "JSON nested too deep", line)
    return _as_record(path, number, value, line)


def with_messages(value: object) -> object:
    """A value of JSON, where a list of messages alone is a conversation, as nanochat writes them.

    >>> with_messages([{"role": "user", "content": "Oi"}])
    {'messages': [{'role': 'user', 'content': 'Oi'}]}
    """
    is_conversation = isinstance(value, list) and all(
        isinstance(one, dict) and not one.keys().isdisjoint(("role", "from")) for one in value
    )
    return {"messages": value} if value and is_conversation else value


def _as_record(path: Path, number: int, value: object, line: bytes = b"") -> Record:
    value = with_messages(value)
    if not isinstance(value, dict):
        return _bad_record(path, number, f"not an object but {type(value).__name__}", line)
    if is_nested_too_deeply(value):
        return _bad_record(path, number, "JSON nested too deep", line)
    return Record(path, number, value)


def _bad_record(path: Path, number: int, error: str, raw: bytes) -> Record:
    return Record(path, number, {}, error, raw[:200].decode("utf-8", "backslashreplace"))


def _json_items(path: Path, items: object) -> Iterator[Record]:
    """Items of a file that is one JSON list of objects, numbered from 1, or one object."""
    items = with_messages(items)
    if isinstance(items, dict):
        _check_not_wrapped(path, items)
    for number, item in enumerate(items if isinstance(items, list) else [items], start=1):
        yield _as_record(path, number, item)


def csv_records(
    path: Path, file: IO[bytes], language: str = "", errors: str = "strict"
) -> Iterator[Record]:
    """Every row of a table in text, whose first row has the names of its columns.

    `errors` as of `open`: what becomes of bytes that are not UTF-8. Raises UserError for them where
    it is "strict", for a name that two columns have and for quotes that are not closed.
    """
    delimiter = TABLE_SUFFIXES[suffix_of(path)]
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors, newline="")
    names: list[str] = []
    line = 1
    try:
        if delimiter == "\t" and _has_one_row_per_line(path):
            rows = _plain_rows(text)
        else:
            rows = _quoted_rows(path, text, delimiter)
        for line, row in rows:
            if not names:
                names = [name.strip() for name in row]
                _check_header(path, names)
            elif len(row) == len(names):
                yield Record(path, line, dict(zip(names, row, strict=True)))
            elif row:
                error = f"{len(row)} columns, the header has {len(names)}"
                yield _bad_record(path, line, error, delimiter.join(row).encode())
    except UnicodeDecodeError as failure:
        reason = f"{failure.reason}, first in or after line {line}"
        raise _not_utf8(path, reason, language) from failure


def _not_utf8(path: Path, reason: str, language: str) -> UserError:
    """The error for a file that cannot be read without the bytes that are not UTF-8."""
    codec = _encoding_of(path, language, min_wrong_bytes=1)
    if codec:
        return _in_encoding(path, codec)
    fix = "correct that place, or write the file again as UTF-8"
    if codec is None:
        usual = encodings_of(language)[0]
        where = " in western Europe" if usual == "cp1252" else ""
        fix = f"{iconv_command(usual, path)}, where it is of Windows{where}"
    return _unreadable(path, f"{NOT_UTF8}: {reason}", fix)


def _in_encoding(path: Path, codec: str, since: str = "") -> UserError:
    name = codec.upper().replace("_", "-")
    return _unreadable(path, f"{NOT_UTF8} but {name}{since}", iconv_command(codec, path))


def _encoding_of(path: Path, language: str, min_wrong_bytes: int = DAMAGED_BELOW) -> str | None:
    """The encoding of a file that is not UTF-8; "" for damaged UTF-8, None where uncertain."""
    with open_decompressed(path) as file:
        lines = (line[:HEAD_BYTES] for line in file if not line.isascii())
        sample = b"".join(islice(lines, SAMPLED_LINES))[:HEAD_BYTES]
    try:
        return detect_encoding(sample, language, min_wrong_bytes)
    except DamagedFileError:
        return None


def _check_header(path: Path, names: Sequence[str]) -> None:
    if "".join(names[:1]).startswith('{"'):
        name = shlex.quote(str(path))
        fix = f"mv {name} {shlex.quote(str(path.with_suffix('.jsonl')))}"
        raise UserError("file-kind", str(path), "holds JSON, not a table as its name says", fix)
    twice = [name for name, count in Counter(filter(None, names)).items() if count > 1]
    if twice:
        raise UserError(
            "column-twice",
            f"{path}:1",
            f"two columns are named {', '.join(twice)}: only one could be read",
            "rename one of them, or remove it",
        )


def _quoted_rows(path: Path, text: IO[str], usual: str) -> Iterator[tuple[int, list[str]]]:
    """Rows as spreadsheets write them, each with its first line: quoted text may hold newlines.

    Strict: a stray quote would silently swallow the rows after it.
    """
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    line = skipped = 1
    try:
        header = text.readline()
        if named := SEPARATOR.fullmatch(header):
            header, usual, skipped = text.readline(), named[1], 2
        delimiter = usual if named else _delimiter_of(header, usual)
        reader = csv.reader(chain([header], text), delimiter=delimiter, strict=True)
        line = skipped
        for row in reader:
            yield line, row
            line = reader.line_num + skipped
    except csv.Error as error:
        raise UserError(
            "quotes-open",
            f"{path}:{line}",
            f"unmatched quotes in the row that begins here ({error})",
            'close the open quote, and double a quote inside quoted text ("")',
        ) from error


def _has_one_row_per_line(path: Path) -> bool:
    """Whether each line of a .tsv has as many columns as its header, and more than one."""
    with open_decompressed(path) as file:
        tabs = {line.count(b"\t") for line in file if line.strip(b"\r\n")}
    return len(tabs) == 1 and tabs != {0}


def _plain_rows(text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows of a .tsv in which no text holds a tab or a newline, as many programs write them.

    A single quote is plain text there: only cells quoted as a whole are unquoted.
    """
    for number, line in enumerate(text, start=1):
        if line := line.rstrip("\r\n"):
            yield number, [_unquoted(cell) for cell in line.split("\t")]


def _unquoted(cell: str) -> str:
    """The text of a cell.

    >>> [_unquoted(cell) for cell in ('"a ""b"" c"', '"a" b', '"')]
    ['a "b" c', '"a" b', '"']
    """
    inner = cell[1:-1]
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def _delimiter_of(header: str, usual: str) -> str:
    """The delimiter: `;`, a tab or `|` where only that splits a .csv's header.

    Spreadsheets write `;` in countries with a decimal comma.

    >>> _delimiter_of("label;text", ","), _delimiter_of("a;b,c", ","), _delimiter_of("text", ",")
    (';', ',', ',')
    """
    widths = {
        sign: len(next(csv.reader([header], delimiter=sign), []))
        for sign in (usual, ";", "\t", "|")
    }
    return usual if widths[usual] > 1 else max(widths, key=lambda sign: widths[sign])


def _table_rows(path: Path) -> Iterator[Record]:
    try:
        for number, row in enumerate(parquet_rows(path), start=1):
            if isinstance(row, BadRowError):
                yield _bad_record(path, number, str(row), b"")
            else:
                yield Record(path, number, row)
    except DamagedFileError as error:
        raise _unreadable(path, f"not Parquet: {error.detail}") from error


def hub_records(
    path: str, *, config: str, split: str, revision: str, where: str
) -> Iterator[Record]:
    """Rows of a Hugging Face dataset, by id or local folder. Raises UserError with `where`."""
    try:
        rows = stream_dataset(path, config=config, split=split, revision=revision)
        class_names = {
            name: tuple(kind.names)
            for name, kind in (rows.features or {}).items()
            if type(kind).__name__ == "ClassLabel" and kind.names
        }
        for number, row in enumerate(rows, start=1):
            yield Record(Path(path), number, dict(row), class_names=class_names)
    except UserError:
        raise
    except Exception as error:  # datasets and the hub share no base class of errors
        raise UserError(
            "hub-unreadable",
            where,
            f'"{path}", split "{split}", cannot be read '
            f"({type(error).__name__}: {(str(error).splitlines() or ['?'])[0][:200]})",
            "check path, config, split and the network; a local folder of the dataset works too",
        ) from error
