"""How much text some files hold, from their sizes and a sample of whole records.

Only the sample is read, so that a plan takes a second. The corpus stage counts exactly.
"""

from __future__ import annotations

import codecs
import json
import logging
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.decompression import (
    COMPRESSED_SUFFIXES,
    DamagedFileError,
    chunks_and_positions,
    compression_of,
    open_chunks,
)
from teenytinyllama.artifacts.encodings import wide_encoding
from teenytinyllama.artifacts.parquet import parquet_rows
from teenytinyllama.artifacts.records import csv_records, kind_of_content, suffix_of
from teenytinyllama.errors import UserError, missing_extra

logger = logging.getLogger(__name__)

HEAD_BYTES = 16
SAMPLED_FILES = 12
"""Files of one kind that are sampled, spread evenly over their bytes."""
SAMPLED_BYTES, SAMPLED_ROWS = 1 << 20, 1000
"""Bytes that are read of each at least, after decompression; the last record is read whole. Of a
table the rows of three groups, of each no more than so many."""
MAX_SAMPLED_BYTES = 64 << 20
STUDIED_CHARACTERS = 1 << 17
"""Characters of each sampled file whose words and letters are counted."""
COVERED_FRACTION = 0.9999
"""Share of the characters that a vocabulary covers: `tokenizer.character_coverage`."""


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
    bits_per_character: float
    """Entropy of single characters: about 4.4 in alphabets, 9 and more in Chinese."""
    num_letters: int
    """Characters that a vocabulary needs so that hardly any is encoded as bytes."""
    text_key: str
    """The field that holds the text of most records."""
    text_keys: Mapping[str, str]
    """The same for each ending of a file's name, where each has one of its own; else empty."""


@dataclass(frozen=True)
class _FileSample:
    text: str
    """The beginning of its text, for words and letters."""
    text_bytes: int
    """Bytes of all text that was read ..."""
    disk_bytes: float
    """... and how many bytes on disk hold it."""
    keys: Counter[str]
    no_text: Counter[str]
    """Fields of records in which no field is a text."""


def measure_corpus(paths: Sequence[Path], text_key: str = "text") -> CorpusSize:
    """Measure files. Raises UserError for one that cannot be read, and for files without text."""
    by_kind: dict[str, list[Path]] = defaultdict(list)
    unread: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    keys_by_ending: dict[str, Counter[str]] = {}
    for path in paths:
        kind = _kind_of(path)
        if kind:
            keys_by_ending.setdefault(_ending(path), Counter())
        if kind in MEASURED:
            by_kind[kind].append(path)
        else:
            (pages if kind else unread)[suffix_of(path) or path.name] += 1
    disk, text_bytes = 0, 0.0
    samples: list[_FileSample] = []
    for kind, group in sorted(by_kind.items()):
        chosen = _spread(group)
        read = [_sample_file(path, MEASURED[kind], text_key) for path in chosen]
        for path, one in zip(chosen, read, strict=True):
            keys_by_ending[_ending(path)].update(one.keys)
        size = sum(_size(path) for path in group)
        disk += size
        sampled = sum(one.disk_bytes for one in read)
        text_bytes += size * sum(one.text_bytes for one in read) / sampled if sampled else 0.0
        samples += read
    sample = "".join(one.text for one in samples)
    if not sample.strip():
        fields = sum((one.no_text for one in samples), Counter[str]())
        raise _no_text(paths, unread, pages, fields)
    if unread:
        logger.warning(f"not counted, since the corpus stage cannot read them: {_named(unread)}")
    if pages:
        logger.warning(
            f"not counted, since only the corpus stage finds their text: {_named(pages)}"
        )
    num_bytes = len(sample.encode("utf-8", "replace"))
    letters = Counter(sample)
    keys = sum((one.keys for one in samples), Counter[str]())
    return CorpusSize(
        num_files=sum(map(len, by_kind.values())),
        disk_bytes=disk,
        text_bytes=text_bytes,
        sampled_bytes=sum(one.text_bytes for one in samples),
        bytes_per_character=num_bytes / len(sample),
        different_words=_different_words(sample, text_bytes / num_bytes),
        bits_per_character=_entropy(letters),
        num_letters=_covering(letters),
        text_key=keys.most_common(1)[0][0] if keys else text_key,
        text_keys=_own_keys(keys_by_ending, text_key),
    )


def _ending(path: Path) -> str:
    """`.jsonl.gz` of `a.jsonl.gz`."""
    suffix = suffix_of(path)
    return path.name[path.name.lower().rfind(suffix) :] if suffix else ""


def _own_keys(found: Mapping[str, Counter[str]], usual: str) -> dict[str, str]:
    """The text's field by ending of the file's name, where that tells them apart."""
    most = {end: keys.most_common(1)[0][0] if keys else usual for end, keys in found.items()}
    fields = {key for keys in found.values() for key in keys}
    is_told = all(len(keys) < 2 for keys in found.values())
    return most if len(fields) > 1 and is_told and "" not in most else {}


def _kind_of(path: Path) -> str:
    try:
        return kind_of_content(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _spread(paths: Sequence[Path]) -> list[Path]:
    """About `SAMPLED_FILES` of them, spread evenly over their bytes: large files count as such."""
    ends = list(accumulate(max(1, _size(path)) for path in paths))
    places = ((index + 0.5) / SAMPLED_FILES * ends[-1] for index in range(SAMPLED_FILES))
    return [paths[index] for index in sorted({bisect_left(ends, place) for place in places})]


def _named(others: Counter[str]) -> str:
    return ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(8))


def _no_text(
    paths: Sequence[Path], unread: Counter[str], pages: Counter[str], fields: Counter[str]
) -> UserError:
    where = str(paths[0].parent if len(paths) > 1 else paths[0])
    what = f"no text in the sample of {len(paths):,} files" if len(paths) > 1 else "holds no text"
    fix = "name .txt, .jsonl or .parquet files with text"
    if pages:
        what = f"no text but in pages, where only the corpus stage finds it ({_named(pages)})"
        fix = "instead of --text give --text-mb: how many megabytes of text the pages hold"
    elif fields.keys() & {"messages", "conversations"}:
        what = "conversations, expected texts"
        fix = "give --text-mb in place of --text; `ttl new` takes conversations as --chat"
    elif fields:
        what = f"no field of its records is a text (they have {_named(fields)})"
    elif unread.total() == len(paths):
        what = f"only files that the corpus stage cannot read ({_named(unread)})"
    return UserError("text-empty", where, what, fix)


def _different_words(sample: str, times: float) -> float:
    """Distinct words of a text `times` as long as the sample, at the sample's rate of growth.

    >>> _different_words("um dois um dois", 100)  # nothing new in the second half
    2.0
    """
    from teenytinyllama.languages.segmentation import find_words  # numpy and ICU, for text only

    words = find_words(sample)
    whole, half = len(set(words)), len(set(words[: len(words) // 2]))
    growth = math.log2(whole / half) if half else 1.0
    return float(whole * max(1.0, times) ** growth)


def _entropy(counts: Counter[str]) -> float:
    """Bits of one symbol, by the frequencies of single symbols.

    >>> _entropy(Counter("abcd"))
    2.0
    """
    total = counts.total()
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def _covering(counts: Counter[str]) -> int:
    """How many of the most frequent characters make up `COVERED_FRACTION` of the text.

    >>> _covering(Counter("aab"))
    2
    """
    left = COVERED_FRACTION * counts.total()
    for number, (_, count) in enumerate(counts.most_common(), start=1):
        left -= count
        if left <= 0:
            return number
    return len(counts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _sample_file(path: Path, sample: _Sampler, text_key: str) -> _FileSample:
    try:
        return sample(path, text_key)
    except (OSError, EOFError, ValueError, DamagedFileError) as error:
        raise _unreadable(path, error) from error


class _Stream:
    """The decompressed bytes of a file, and how many bytes on disk they took so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.consumed, self.made = path, 0, 0

    def chunks(self) -> Iterator[bytes]:
        """Chunks of about 1 MB."""
        with self.path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        is_named_packed = self.path.suffix.lower() in COMPRESSED_SUFFIXES
        if head and is_named_packed and not compression_of(head):
            raise ValueError(f"not {self.path.suffix}")
        decoder = None
        for chunk, position in chunks_and_positions(self.path, Counter(), bomb_ratio=0):
            if not self.made and (wide := wide_encoding(chunk)):
                decoder = codecs.getincrementaldecoder(wide)("replace")
            if decoder:
                chunk = decoder.decode(chunk).encode("utf-8", "replace")
            self.consumed, self.made = position, self.made + len(chunk)
            yield chunk


def _sample_text(path: Path, _: str) -> _FileSample:
    stream, parts = _Stream(path), []
    for chunk in stream.chunks():
        parts.append(chunk)
        if stream.made >= SAMPLED_BYTES:
            break
    text = _decoded(b"".join(parts))
    num_bytes = len(text.encode("utf-8", "replace"))
    return _FileSample(text[:STUDIED_CHARACTERS], num_bytes, stream.consumed, Counter(), Counter())


def _decoded(data: bytes) -> str:
    """The text of bytes in UTF-8; other encodings roughly, as letters."""
    # The last character may be cut; more than that is another encoding.
    text = data.decode("utf-8", "ignore")
    lost = len(data) - len(text.encode("utf-8"))
    return data.decode("latin-1") if lost * 20 > len(data) else text


def _sample_lines(path: Path, text_key: str) -> _FileSample:
    stream, read = _Stream(path), _Texts(text_key)
    for row in _rows(stream):
        read.add(row)
        if read.line_bytes >= SAMPLED_BYTES:
            break
    # Bytes of whole records among those decompressed, at the file's ratio of compression.
    share = min(1.0, read.line_bytes / stream.made) if stream.made else 0.0
    return read.sample(stream.consumed * share)


class _Texts:
    """The texts of records: their bytes, their beginning, and the fields that they were in."""

    def __init__(self, text_key: str) -> None:
        self.text_key = text_key
        self.keys: Counter[str] = Counter()
        self.no_text: Counter[str] = Counter()
        self.num_bytes = self.line_bytes = 0
        self._parts: list[str] = []
        self._characters = 0

    def add(self, line: tuple[Any, int]) -> None:
        """One record and the bytes that it takes in its file."""
        row, size = line
        self.line_bytes += size
        if not isinstance(row, dict):
            return
        key = self.text_key
        if not isinstance(row.get(key), str):
            texts = {name: len(value) for name, value in row.items() if isinstance(value, str)}
            key = max(texts, key=texts.__getitem__, default="")
        if not key:
            self.no_text.update(map(str, row))
            return
        text = row[key]
        self.keys[key] += 1
        self.num_bytes += len(text.encode("utf-8", "replace"))
        if self._characters < STUDIED_CHARACTERS:
            self._parts.append(text[: STUDIED_CHARACTERS - self._characters])
            self._characters += len(self._parts[-1])

    def sample(self, disk_bytes: float) -> _FileSample:
        """What was read, of which `disk_bytes` are on disk; the beginning of the texts as lines."""
        text = "\n".join(self._parts)
        return _FileSample(text, self.num_bytes, disk_bytes, self.keys, self.no_text)


def _rows(stream: _Stream) -> Iterator[tuple[Any, int]]:
    """Each line as JSON, and its bytes; a file that is one list of records is read whole."""
    chunks = stream.chunks()
    rest = next(chunks, b"")
    if rest.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _listed(rest + b"".join(_limited(chunks)))
        return
    parts = [rest]
    for chunk in _limited(chunks):
        if b"\n" in parts[-1]:
            *lines, rest = b"".join(parts).split(b"\n")
            for line in lines:
                yield _parsed(line), len(line) + 1
            parts = [rest]
        parts.append(chunk)
    for line in b"".join(parts).split(b"\n"):
        yield _parsed(line), len(line) + 1


def _limited(chunks: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_SAMPLED_BYTES:
            return
        yield chunk


def _listed(data: bytes) -> Iterator[tuple[Any, int]]:
    rows = _parsed(data)
    # One line that is a list of something else, or a file too long to sample: no record.
    for row in rows if isinstance(rows, list) else [None]:
        yield row, len(data) // max(1, len(rows or ()))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None  # the corpus stage reports broken lines


def _sample_csv(path: Path, text_key: str) -> _FileSample:
    stream, read = _Stream(path), _Texts(text_key)
    for record in csv_records(path, open_chunks(stream.chunks()), errors="replace"):
        cells = record.fields.values()
        read.add((record.fields, sum(len(cell) + cell.count('"') + 3 for cell in cells)))
        if read.line_bytes >= SAMPLED_BYTES:
            share = min(1.0, read.line_bytes / stream.made)
            return read.sample(stream.consumed * share)
    return read.sample(stream.consumed)


def _sample_table(path: Path, text_key: str) -> _FileSample:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "corpus") from error
    about = parquet.read_metadata(path)
    leaves = map(about.schema.column, range(about.num_columns))
    texts = [leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"]
    read, num_rows = _Texts(text_key), 0
    groups = range(about.num_row_groups)
    for group in sorted({groups[len(groups) * n // 3] for n in range(3)} if groups else ()):
        rows = parquet_rows(path, lambda names: [text_key] if text_key in names else texts, [group])
        before = read.num_bytes
        for row in islice(rows, SAMPLED_ROWS):
            num_rows += 1
            read.add((row, 0))
            if read.num_bytes - before >= SAMPLED_BYTES:
                break
    disk = path.stat().st_size * num_rows / max(1, about.num_rows)
    return read.sample(disk)


# How the kinds of files whose text can be measured are sampled.
_Sampler = Callable[[Path, str], _FileSample]
MEASURED: dict[str, _Sampler] = {
    "lines": _sample_lines,
    "text": _sample_text,
    "parquet": _sample_table,
    "csv": _sample_csv,
}


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError("text-unreadable", str(path), f"cannot be read ({error})", "check the file")
