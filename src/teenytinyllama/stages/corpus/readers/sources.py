"""Where text comes from: files, the storybook and Hub datasets, as batches of raw records.

All files are checked before the first is read, and everything wrong with them is reported at once.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.decompression import COMPRESSED_SUFFIXES
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.settings.base import expand_path
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import RawBatch, RawItem
from teenytinyllama.stages.corpus.readers.common_crawl import WEB_SUFFIXES, pages_of
from teenytinyllama.stages.corpus.readers.text_lines import lines_of, texts_of

BATCH_BYTES = 2 << 20
BATCH_ITEMS = 2000
LINE_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (".txt", ".md", ".text")
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


def kind_of(path: Path) -> str:
    """`lines`, `text`, `parquet` or `web`, "" for a file that the stage cannot read."""
    suffixes = [s for s in map(str.lower, path.suffixes) if s not in COMPRESSED_SUFFIXES]
    last = suffixes[-1] if suffixes else ""
    if last in LINE_SUFFIXES:
        return "lines"
    if last in TEXT_SUFFIXES:
        return "text"
    if last in WEB_SUFFIXES:
        return "web"
    return "parquet" if last == ".parquet" else ""


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
                with path.open("rb"):
                    stat = path.stat()
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
            found.append(InputFile(index, path, kind_of(path), stat.st_size, stat.st_mtime_ns))
        if len(found) == before and not problems:
            others = [p.name for p in expand_path(source.path)]
            named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            what = f"only files of kinds it cannot read ({named})" if others else "no file"
            raise UserError(
                "source-empty",
                f"corpus.sources.{index}.path",
                f'{what} behind "{source.path}"',
                "give a file, a folder or a glob of .txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet",
            )
    if problems:
        raise UserError(
            "file-unreadable",
            "corpus.sources",
            f"{len(problems)} paths cannot be read: " + "; ".join(problems[:20]),
            "fix or remove them",
        )
    return found


def _paths(source: Source, index: int, problems: list[str], notes: Counter[str]) -> list[Path]:
    if "://" in source.path:
        raise UserError(
            "source-url",
            f"corpus.sources.{index}.path",
            f'"{source.path}" is an address, expected local files',
            "download it first, and give the file's path",
        )
    root = Path(source.path).expanduser()
    if root.is_dir():
        names: Iterable[Path] = root.rglob("*")
    elif root.is_file() or root.is_symlink():
        names = [root]
    else:
        names = (Path(n) for n in glob.iglob(str(root), recursive=True))  # noqa: PTH207
    paths = []
    for path in sorted(names):
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
        elif path == root:
            problems.append(f"{path} (unknown kind of file)")
        else:
            notes["file-ignored"] += 1
    return paths


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
                yield from read_other(source, index, self.language)
                continue
            for file in self.files:
                if file.source == index:
                    yield from self._file(file)

    def _file(self, file: InputFile) -> Iterator[RawBatch]:
        before, read = self.megabytes, 0
        is_compressed = file.path.suffix.lower() in COMPRESSED_SUFFIXES or file.kind == "parquet"
        source = self.settings.sources[file.source]
        for batch in read_file(file, source, self.settings, self.notes):
            read += batch.num_bytes
            done = min(read / (self._compression() if is_compressed else 1), file.size_bytes)
            self.megabytes = before + done / 1e6
            yield batch
        self.megabytes = before + file.size_bytes / 1e6
        if is_compressed:
            self._compressed_bytes += file.size_bytes
            self._text_bytes += read

    def _compression(self) -> float:
        if not self._compressed_bytes:
            return TYPICAL_COMPRESSION
        return max(self._text_bytes / self._compressed_bytes, 1)


def read_file(
    file: InputFile, source: Source, settings: CorpusSettings, notes: Counter[str]
) -> Iterator[RawBatch]:
    """The records of one file as batches."""
    if file.kind == "parquet":
        items = _table_rows(file.path, source)
    elif file.kind == "web":
        items = pages_of(file.path, max_bytes=settings.max_line_bytes, notes=notes)
    elif file.kind == "text":
        items = texts_of(file.path, max_bytes=settings.max_line_bytes, notes=notes)
    else:
        items = lines_of(file.path, max_line_bytes=settings.max_line_bytes, notes=notes)
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
        rows = _hub_rows(source, index)
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


def _table_rows(path: Path, source: Source) -> Iterator[RawItem]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "corpus") from error
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        if source.text_key not in names:
            raise UserError(
                "table-columns",
                f"{path}:{source.text_key}",
                f"no such column, the table has {', '.join(names)}",
                "name the column that holds the text as text_key of this source",
            )
        wanted = {source.text_key, source.id_key, source.url_key, "source", "license"}
        number = 0
        for rows in table.iter_batches(1000, columns=[n for n in names if n in wanted]):
            for row in rows.to_pylist():
                number += 1
                yield RawItem(str(path), number, 0, row, num_bytes=_size(row, source.text_key))
    except (arrow.ArrowException, OSError) as error:
        raise UserError(
            "table-damaged",
            str(path),
            f"cannot be read as parquet ({str(error).splitlines()[0][:200]})",
            "fetch or write it again",
        ) from error


def _hub_rows(source: Source, index: int) -> Iterator[dict[str, Any]]:
    if "://" in source.path:
        raise UserError(
            "source-url",
            f"corpus.sources.{index}.path",
            f'"{source.path}" is an address, expected the id of a dataset or a local folder',
            'path = "owner/dataset"',
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra("datasets", "corpus") from error
    try:
        stream = load_dataset(
            source.path,
            name=source.config or None,
            split=source.split,
            revision=source.revision or None,
            streaming=True,
        )
        yield from stream
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            "hub-unreadable",
            f"corpus.sources.{index}.path",
            f'"{source.path}" cannot be read ({type(error).__name__}: {str(error)[:300]})',
            "check path, config, split and the network; a local folder of the dataset works too",
        ) from error
