"""How much text some files hold, from their sizes and a sample of their content.

Only the sample is read, so that a plan takes under a second. The corpus stage counts exactly.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.languages import word_pattern

SAMPLED_FILES = 12
"""Files of one kind that are sampled, spread evenly over their names."""
SAMPLED_BYTES = 1 << 17
"""Bytes that are read of each, after decompression."""
# Records of these files have their text in one field; other files are plain text.
_RECORDS = (".jsonl", ".json", ".ndjson")
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class CorpusSize:
    """Size of the text in some files, estimated from a sample."""

    num_files: int
    disk_bytes: int
    text_bytes: float
    """Bytes of text in UTF-8: the text field only, decompressed."""
    sampled_bytes: int
    bytes_per_character: float
    different_words: float
    """Distinct words of the whole text, extrapolated from the sample (Heaps' law)."""


@dataclass(frozen=True)
class _FileSample:
    text: str
    text_per_disk_byte: float


def measure_corpus(paths: Sequence[Path], text_key: str = "text") -> CorpusSize:
    """Measure files. Raises UserError for one that cannot be read, and for files without text."""
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_kind[_kind(path)].append(path)
    disk, text_bytes, sample = 0, 0.0, ""
    for kind, group in sorted(by_kind.items()):
        step = max(1, len(group) // SAMPLED_FILES)
        samples = [_sample_file(path, kind, text_key) for path in group[::step][:SAMPLED_FILES]]
        size = sum(_size(path) for path in group)
        weights = sum(len(one.text) for one in samples)
        shares = [one.text_per_disk_byte for one in samples if one.text]
        disk += size
        text_bytes += size * (sum(shares) / len(shares) if shares and weights else 0.0)
        sample += "".join(one.text for one in samples)
    if not sample.strip():
        where = str(paths[0].parent if len(paths) > 1 else paths[0])
        what = f"{len(paths)} files, and no text in the sample of them"
        raise UserError("text-empty", where, what, "name .txt, .jsonl or .parquet files with text")
    num_bytes = len(sample.encode("utf-8", "replace"))
    words = _different_words(sample, text_bytes / num_bytes)
    return CorpusSize(len(paths), disk, text_bytes, num_bytes, num_bytes / len(sample), words)


def _different_words(sample: str, times: float) -> float:
    """Distinct words of a text `times` as long as the sample, at the sample's rate of growth.

    >>> _different_words("um dois um dois", 100)  # nothing new in the second half
    2.0
    """
    words = word_pattern().findall(sample)
    whole, half = len(set(words)), len(set(words[: len(words) // 2]))
    growth = math.log2(whole / half) if half else 1.0
    return float(whole * max(1.0, times) ** growth)


def _kind(path: Path) -> str:
    """How to read a file: its suffixes such as `.jsonl.gz` or `.parquet`; empty for plain text."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compressed = suffixes[-1] if suffixes and suffixes[-1] in _COMPRESSED else ""
    inner = suffixes[-2] if compressed and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    record = inner if inner in _RECORDS or inner == ".parquet" else ""
    return record + compressed


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _sample_file(path: Path, kind: str, text_key: str) -> _FileSample:
    try:
        if kind == ".parquet":
            return _sample_table(path, text_key)
        raw, consumed = _beginning(path, kind)
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable(path, error) from error
    whole = raw.decode("utf-8", "ignore")
    text = whole
    if kind.startswith(_RECORDS):
        text = "".join(_fields(whole, text_key))
    share = len(text.encode("utf-8")) / consumed if consumed else 0.0
    return _FileSample(text, share)


def _beginning(path: Path, kind: str) -> tuple[bytes, int]:
    """The first bytes of a file, decompressed, and how many bytes on disk they take."""
    with path.open("rb") as file:
        if kind.endswith(".gz"):
            raw = gzip.GzipFile(fileobj=file).read(SAMPLED_BYTES)
        elif kind.endswith(".zst"):
            raw = _zstd(file)
        else:
            raw = file.read(SAMPLED_BYTES)
            return raw, len(raw)
        # The decompressor reads ahead: exact for a file read to its end, nearly so for others.
        return raw, max(1, min(file.tell(), path.stat().st_size))


def _zstd(file: io.BufferedReader) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise missing_extra("zstandard", "corpus") from error
    try:
        return bytes(zstandard.ZstdDecompressor().stream_reader(file).read(SAMPLED_BYTES))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _fields(lines: str, text_key: str) -> list[str]:
    """The text field of every complete line; without one of that name the longest text."""
    found = []
    for line in lines.split("\n"):
        try:
            row: Any = json.loads(line)
        except ValueError:
            continue  # the last line is cut; the corpus stage reports broken ones
        if not isinstance(row, dict):
            continue
        texts = [value for value in row.values() if isinstance(value, str)]
        text = row.get(text_key)
        found.append(text if isinstance(text, str) else max(texts, key=len, default=""))
    return found


def _sample_table(path: Path, text_key: str) -> _FileSample:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "corpus") from error
    table = parquet.ParquetFile(path)
    rows = next(table.iter_batches(batch_size=64), None)
    if rows is None or text_key not in rows.schema.names:
        return _FileSample("", 0.0)
    texts = [text for text in rows.column(text_key).to_pylist() if isinstance(text, str)]
    mean_bytes = sum(len(text.encode("utf-8")) for text in texts) / max(1, len(texts))
    share = mean_bytes * table.metadata.num_rows / max(1, path.stat().st_size)
    return _FileSample("".join(texts)[:SAMPLED_BYTES], share)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError("text-unreadable", str(path), f"cannot be read ({error})", "check the file")
