"""Where text comes from: files, the storybook and Hub datasets, as batches of raw records.

All files are checked before the first is read, and everything wrong with them is reported at once.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.decompression import (
    COMPRESSED_SUFFIXES,
    DamagedFileError,
    chunks_of,
    compression_of,
    open_chunks,
)
from teenytinyllama.artifacts.parquet import BadRowError, parquet_rows
from teenytinyllama.artifacts.records import (
    Record,
    csv_records,
    hub_records,
    kind_of,
    kind_of_content,
    suffix_of,
)
from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import open_regular, user_path
from teenytinyllama.settings.base import expand_path, files_below, matches
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import WHOLE_KINDS, RawBatch, RawItem, StepConfig
from teenytinyllama.stages.corpus.readers.common_crawl import pages_of
from teenytinyllama.stages.corpus.readers.text_lines import TextFile, lines_of, texts_of

logger = logging.getLogger(__name__)

BATCH_BYTES = 2 << 20
BATCH_ITEMS = 2000
# What to type for files of text that are not read: {0} the file, {1} its name without suffix.
CONVERSIONS = {
    # pandoc 3.9 loses the letter after a Unicode character of an .rtf.
    ".rtf": "soffice --headless --convert-to txt:Text {0}",
    ".doc": "soffice --headless --convert-to txt:Text {0}",
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "soffice --headless --convert-to csv {0}"),
    **dict.fromkeys((".pptx", ".ppt", ".odp"), "soffice --headless --convert-to pdf {0}"),
    ".rst": "pandoc -t plain --wrap=none {0} -o {1}.txt",
    ".tex": "pandoc -t plain --wrap=none {0} -o {1}.txt",
    ".zip": "unzip {0} -d {1}",
    ".7z": "7z x {0} -o{1}",
    ".tar": "tar -xf {0}",
    ".tgz": "tar -xf {0}",
}
DATASET_FILES = ("dataset_info.json", "dataset_infos.json")
"""What the `datasets` library writes beside its tables: no text."""
TYPICAL_COMPRESSION = 3.5
"""Bytes of text per compressed byte, until a compressed file has been read to its end."""


@dataclass(frozen=True)
class InputFile:
    """One file to read, with its size and time of change when the stage began."""

    source: int
    path: Path
    kind: str
    size_bytes: int
    changed_ns: int

    def check_unchanged(self) -> None:
        """Raises UserError where the file changed while it was read."""
        stat = self.path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (self.size_bytes, self.changed_ns):
            raise UserError(
                "file-changed",
                str(self.path),
                f"changed while it was read ({self.size_bytes} to {stat.st_size} bytes)",
                "wait until it is complete, then run the same command again",
            )


def find_files(settings: CorpusSettings, notes: Counter[str]) -> list[InputFile]:
    """All files that the sources name, in reading order.

    Raises UserError that lists every path that cannot be read, or names the source without one.
    """
    found: list[InputFile] = []
    problems: list[str] = []
    seen: dict[tuple[int, int], Path] = {}
    for index, source in enumerate(settings.sources):
        if source.kind != "files":
            continue
        before = len(found)
        for path in _paths(source, index, problems, notes):
            try:
                kind = kind_of_content(path)
                with open_regular(path):
                    stat = path.stat()
            except UserError as error:
                problems.append(f"{path} ({error.what})")
                continue
            except OSError as error:
                problems.append(f"{path} ({error.strerror})")
                continue
            key = (stat.st_dev, stat.st_ino)
            if key in seen:
                raise UserError(
                    "file-twice",
                    f"corpus.sources.{index}.path",
                    f"{path} is read already as {seen[key]}",
                    "remove one of the two",
                )
            seen[key] = path
            notes["file-empty"] += stat.st_size == 0
            found.append(InputFile(index, path, kind, stat.st_size, stat.st_mtime_ns))
        if len(found) == before and not problems:
            raise _empty_source(source, index)
    if problems:
        raise UserError(
            "file-unreadable",
            "corpus.sources",
            f"{len(problems)} paths cannot be read: " + "; ".join(problems[:20]),
            "fix or remove them",
        )
    return found


def check_enough_documents(settings: CorpusSettings, files: Sequence[InputFile]) -> None:
    """Raise UserError where all files are empty, or all text is one file, which is one document."""
    if files and not any(file.size_bytes for file in files):
        others = f", and so are {len(files) - 1} more" if len(files) > 1 else ""
        raise UserError(
            "corpus-empty", str(files[0].path), f"is empty{others}", "add text to the sources"
        )
    if len(files) != 1 or any(source.kind != "files" for source in settings.sources):
        return
    (file,) = files
    if file.kind not in WHOLE_KINDS or file.size_bytes > settings.max_line_bytes:
        return
    more = "give more files"
    if text := _plain_utf8(file.path):
        cut = file.path.with_suffix(".jsonl")
        is_named = user_path(settings.sources[0].path) == file.path
        more += f", or {f'name {cut} in path and ' if is_named else ''}cut it into paragraphs: "
        more += _cut_command(file.path, cut, text, keep=is_named)
    raise UserError(
        "corpus-empty",
        str(file.path),
        f"is one document, as every {file.path.suffix} is, and the only one; training and held-out "
        "text need two or more",
        more,
    )


def _plain_utf8(path: Path) -> str:
    try:
        return "" if compression_of(path.read_bytes()[:512]) else path.read_text("utf-8")
    except UnicodeDecodeError:
        return ""


def _cut_command(path: Path, into: Path, text: str, *, keep: bool) -> str:
    """What cuts a text at blank lines, or at every line; `keep`: it stays beside its parts."""
    border = "\\n\\n" if "\n\n" in text.strip() else "\\n"
    name = shlex.quote(str(path))
    cut = (
        """python -c 'import json, sys; [print(json.dumps({"text": part})) for part in """
        f"""open(sys.argv[1], encoding="utf-8").read().split("{border}") if part.strip()]'"""
    )
    # In a folder both would be read: the whole, and each part of it.
    away = "" if keep else f" && mv {name} {shlex.quote(f'{path}.whole')}"
    return f"{cut} {name} > {shlex.quote(str(into))}{away}"


def _empty_source(source: Source, index: int) -> UserError:
    others = expand_path(source.path)
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in _kinds(others).most_common(5))
    what = f"only files of kinds it cannot read ({kinds})" if others else "no file"
    convert = _conversion(others)
    if others and not convert and not others[0].suffix:
        name = shlex.quote(str(others[0]))
        convert = f"mv {name} {name}.txt, and so all texts without a suffix"
    return UserError(
        "source-empty",
        f"corpus.sources.{index}.path",
        f'{what} behind "{source.path}"',
        convert
        or "give a file, a folder or a glob of .txt, .html, .jsonl, .parquet, .warc "
        "(also .gz, .zst, .bz2, .xz)",
    )


def _kinds(paths: Iterable[Path]) -> Counter[str]:
    return Counter(suffix_of(path) or path.suffix.lower() or "without suffix" for path in paths)


def _conversion(paths: Iterable[Path]) -> str:
    """What to type to make text of the most frequent of these kinds; "" for no kind of text."""
    known = [path for path in paths if path.is_file() and suffix_of(path) in CONVERSIONS]
    for suffix, _ in _kinds(known).most_common(1):
        first = next(path for path in known if suffix_of(path) == suffix)
        names = shlex.quote(str(first)), shlex.quote(str(first.with_suffix("")))
        return CONVERSIONS[suffix].replace("{0}", names[0]).replace("{1}", names[1])
    return ""


def _say_ignored(ignored: list[Path], source: Source) -> None:
    """Name files of other kinds: what somebody meant to be read must not be missing unnoticed."""
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in _kinds(ignored).most_common(8))
    convert = _conversion(ignored)
    logger.warning(
        f"corpus: not read in {source.path}: {kinds}"
        + (f"; to read them, make text of them first: {convert}" if convert else "")
    )


def _paths(source: Source, index: int, problems: list[str], notes: Counter[str]) -> list[Path]:
    if "://" in source.path:
        raise UserError(
            "source-url",
            f"corpus.sources.{index}.path",
            f'"{source.path}" is an address, expected local files',
            "download it first, and give the file's path",
        )
    root = user_path(source.path)
    if root.is_dir():
        names: Iterable[Path] = files_below(root)
    elif root.is_file() or root.is_symlink():
        names = [root]
    else:
        names = matches(root)
    paths: list[Path] = []
    ignored: list[Path] = []
    names = sorted(names)
    _check_no_dataset(names, index)
    for path in names:
        if path.name.startswith("."):
            continue
        kind = kind_of(path)
        if path.is_symlink() and not path.exists():
            problems.append(f"{path} (dangling link)")
        elif path.is_dir():
            if kind:
                problems.append(f"{path} (a folder, not a file)")
        elif kind:
            paths.append(path)
        else:
            ignored.append(path)
    notes["file-ignored"] += len(ignored)
    if ignored and paths:
        _say_ignored(ignored, source)
    return paths


def _check_no_dataset(paths: Iterable[Path], index: int) -> None:
    """Raise UserError where the `datasets` library wrote the files: not all of them are text."""
    for path in paths:
        if path.name in DATASET_FILES:
            raise UserError(
                "source-is-dataset",
                f"corpus.sources.{index}.path",
                f'"{path.parent}" is a dataset of the `datasets` library',
                f'kind = "hub" and path = "{path.parent}" in corpus.sources.{index}',
            )


class SourceReader:
    """Reads every source once; `megabytes` of `total_megabytes` are read.

    Both are sizes on disk. The total is None where a source is not a file. Inside a compressed file
    the position is an estimate, at its end it is exact.
    """

    def __init__(
        self, settings: CorpusSettings, language: str, files: list[InputFile], notes: Counter[str]
    ) -> None:
        self.settings, self.language, self.files, self.notes = settings, language, files, notes
        has_only_files = all(source.kind == "files" for source in settings.sources)
        self.total_megabytes = sum(f.size_bytes for f in files) / 1e6 if has_only_files else None
        self.megabytes = 0.0
        self._compressed_bytes = self._text_bytes = 0

    def batches(self) -> Iterator[RawBatch]:
        """The records, in the recipe's order."""
        for index, source in enumerate(self.settings.sources):
            if source.kind != "files":
                yield from read_other(source, index, source.language or self.language)
                continue
            for file in self.files:
                if file.source == index:
                    yield from self._file(file)

    def _file(self, file: InputFile) -> Iterator[RawBatch]:
        before, read = self.megabytes, 0
        is_compressed = file.path.suffix.lower() in COMPRESSED_SUFFIXES or file.kind == "parquet"
        unread, partial = self.notes["bytes-not-read"], self.notes["file-partial"]
        damage = ""
        for batch in read_file(file, StepConfig(self.settings, self.language), self.notes):
            read += batch.num_bytes
            done = min(read / (self._compression() if is_compressed else 1), file.size_bytes)
            self.megabytes = before + done / 1e6
            damage = next((i.detail for i in reversed(batch.items) if i.damage), damage)
            yield batch
        unread = self.notes["bytes-not-read"] - unread
        if unread or self.notes["file-partial"] > partial:
            logger.warning(
                f"corpus: {file.path}: {damage or 'other bytes follow its end'}"
                + (f"; {unread:,} of its {file.size_bytes:,} bytes are not read" if unread else "")
            )
        self.megabytes = before + file.size_bytes / 1e6
        if is_compressed:
            self._compressed_bytes += file.size_bytes
            self._text_bytes += read

    def _compression(self) -> float:
        if not self._compressed_bytes:
            return TYPICAL_COMPRESSION
        return max(self._text_bytes / self._compressed_bytes, 1)


def read_file(file: InputFile, config: StepConfig, notes: Counter[str]) -> Iterator[RawBatch]:
    """The records of one file as batches."""
    settings = config.settings
    source = settings.sources[file.source]
    language = source.language or config.language
    text = TextFile(file.path, source.encoding, language)
    if file.kind == "parquet":
        items = _table_rows(file.path, source, settings.max_line_bytes, notes)
    elif file.kind == "csv":
        items = _csv_rows(text, source, settings.max_line_bytes, notes)
    elif file.kind == "document":
        items = iter([RawItem(str(file.path), 1, 0, {}, num_bytes=file.size_bytes)])
    elif file.kind == "html":
        items = _html_page(file.path, settings.max_line_bytes, notes)
    elif file.kind == "web":
        items = pages_of(
            file.path, max_bytes=settings.max_line_bytes, language=language, notes=notes
        )
    elif file.kind == "text":
        items = texts_of(text, max_bytes=settings.max_line_bytes, notes=notes)
    else:
        items = lines_of(text, max_line_bytes=settings.max_line_bytes, notes=notes)
    yield from batched(items, file.source, file.kind)
    file.check_unchanged()


def read_other(source: Source, index: int, language: str) -> Iterator[RawBatch]:
    """The records of a source without files: the language's storybook, or a Hub dataset."""
    if source.kind == "storybook":
        from teenytinyllama.synthetic import dataset as synthetic

        rows: Iterable[dict[str, Any]] = (
            {
                source.id_key: made.id,
                source.text_key: made.text,
                "license": source.license or synthetic.LICENSE,
            }
            for made in synthetic.documents(
                seed=source.seed, num_documents=source.num_documents, language=language
            )
        )
    else:
        rows = _hub_rows(source, f"corpus.sources.{index}.path")
    items = (
        RawItem(source.title, number, 0, row, num_bytes=_size(row, source.text_key))
        for number, row in enumerate(rows, start=1)
    )
    yield from batched(items, index, "rows")


def batched(items: Iterable[RawItem], source: int, kind: str) -> Iterator[RawBatch]:
    """Items in reading order, cut into batches of about 2 MB."""
    batch = RawBatch(source, kind)
    for item in items:
        batch.items.append(item)
        batch.num_bytes += item.num_bytes if isinstance(item.data, dict) else len(item.data)
        if batch.num_bytes >= BATCH_BYTES or len(batch.items) >= BATCH_ITEMS:
            yield batch
            batch = RawBatch(source, kind)
    batch.last = True
    if batch.items:
        yield batch


def _size(row: dict[str, Any], key: str) -> int:
    text = row.get(key)
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0


def _html_page(path: Path, max_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
    """A file of HTML as one record, whose text is found as that of a page of the web."""
    held = bytearray()
    item = RawItem(str(path), 1, 0, {})
    try:
        for chunk in chunks_of(path, notes):
            held += chunk
            if len(held) > max_bytes:
                item.damage, item.detail = "line-too-long", f"a page of more than {max_bytes} bytes"
                break
    except DamagedFileError as error:
        notes["file-partial"] += 1
        item.damage, item.detail = error.reason, error.detail
    item.data, item.num_bytes = {"html": bytes(held[:max_bytes])}, len(held)
    if held or item.damage:
        yield item


def fields_of(source: Source) -> set[str] | None:
    """The fields of a record that are read; None for all."""
    if source.shape == "conversation":
        return None
    return {source.text_key, source.id_key, source.url_key, "source", "license", *source.only}


def _other_column(path: Path, missing: str, source: Source) -> str:
    """What to do where a table lacks a column."""
    if missing == source.text_key:
        what = "name the column that holds the text as text_key of this source"
        if user_path(source.path) != path:
            what += f'; where its other files are right, "*{suffix_of(path)}" is one of its own'
        return what
    wanted = f"{missing}={source.only[missing]}"
    for folder in path.parents:
        if folder.name.startswith(f"{missing}="):  # a table in partitions
            return f'give path = "{folder.with_name(wanted)}" instead of `only`'
    return "name a column of the table in `only` of this source"


def _check_columns(path: Path, names: Sequence[str], needed: Sequence[str], source: Source) -> None:
    for missing in (name for name in needed if name not in names):
        raise UserError(
            "table-columns",
            f"{path}:{missing}",
            f"no such column, the table has {', '.join(names)}",
            _other_column(path, missing, source),
        )


def _table_rows(
    path: Path, source: Source, max_bytes: int, notes: Counter[str]
) -> Iterator[RawItem]:
    """Every row of a table. Raises UserError where it lacks a column or begins damaged."""
    fields = fields_of(source)
    needed = [*source.only] if fields is None else [source.text_key, *source.only]

    def choose(names: Sequence[str]) -> set[str]:
        _check_columns(path, names, needed, source)
        return set(names) if fields is None else fields

    number = 0
    try:
        for number, row in enumerate(parquet_rows(path, choose), start=1):
            if isinstance(row, BadRowError):
                yield RawItem(str(path), number, 0, {}, damage="invalid-row", detail=str(row))
                continue
            if fields is not None and not isinstance(row[source.text_key], str | None):
                raise UserError(
                    "table-columns",
                    f"{path}:{source.text_key}",
                    f"expected a column of texts, row {number} has {row[source.text_key]!r:.60}",
                    _other_column(path, source.text_key, source),
                )
            item = RawItem(str(path), number, 0, row, num_bytes=_size(row, source.text_key))
            if item.num_bytes > max_bytes:
                item.damage, item.detail = "line-too-long", f"{item.num_bytes} bytes"
                item.data = {}
            yield item
    except DamagedFileError as error:
        if not number and error.reason == "table-damaged":
            raise UserError(
                "table-damaged",
                str(path),
                f"cannot be read as parquet ({error.detail})",
                "fetch or write it again",
            ) from error
        notes["file-partial"] += 1
        yield RawItem(str(path), number + 1, 0, {}, damage=error.reason, detail=error.detail)


def _csv_rows(
    text: TextFile, source: Source, max_bytes: int, notes: Counter[str]
) -> Iterator[RawItem]:
    """Every row of a .csv or .tsv. Raises UserError where it lacks a column."""
    needed = [*source.only] if source.shape == "conversation" else [source.text_key, *source.only]
    file, number = open_chunks(text.chunks(notes)), 0
    # A byte that is not UTF-8 becomes a lone surrogate, and costs its row.
    records = csv_records(text.path, file, errors="surrogateescape")
    try:
        for record in records:
            if not number and not record.error:
                _check_columns(text.path, list(record.fields), needed, source)
            number = record.line
            item = RawItem(str(text.path), number, 0, record.fields, num_bytes=_row_bytes(record))
            if record.error:
                item.damage, item.detail = "invalid-row", record.error
            elif item.num_bytes > max_bytes:
                item.damage, item.detail = "line-too-long", f"{item.num_bytes} bytes"
                item.data = {}
            yield item
    except DamagedFileError as error:
        notes["file-partial"] += 1
        yield RawItem(str(text.path), number + 1, 0, {}, damage=error.reason, detail=error.detail)


def _row_bytes(record: Record) -> int:
    return sum(len(cell.encode("utf-8", "replace")) + 1 for cell in record.fields.values())


def _hub_rows(source: Source, where: str) -> Iterator[dict[str, Any]]:
    if "://" in source.path:
        raise UserError(
            "source-url",
            where,
            f'"{source.path}" is an address, expected the id of a dataset or a local folder',
            'path = "owner/dataset"',
        )
    asked = {"config": source.config, "split": source.split, "revision": source.revision}
    records = hub_records(source.path, where=where, **asked)
    return (record.fields for record in records)
