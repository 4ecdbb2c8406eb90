"""Text files as lines, or as whole texts, with their place, in bounded memory."""

from __future__ import annotations

import codecs
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.decompression import DamagedFileError
from teenytinyllama.artifacts.encodings import utf8_chunks_of
from teenytinyllama.artifacts.records import WRAPPERS
from teenytinyllama.errors import UserError
from teenytinyllama.stages.corpus.batches import RawItem


@dataclass(frozen=True)
class TextFile:
    """A file of text: its encoding as the source says ("" for unknown), and its language."""

    path: Path
    encoding: str
    language: str

    def chunks(self, notes: Counter[str]) -> Iterator[bytes]:
        """Its decompressed bytes as UTF-8."""
        return utf8_chunks_of(
            self.path, encoding=self.encoding, language=self.language, notes=notes
        )


def lines_of(file: TextFile, *, max_line_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
    """Every line of a file that is not blank, without its line end.

    A line over `max_line_bytes` becomes an item with `damage` and only its first bytes: the rest is
    hashed and counted, never held. Damage to the file is reported by its last item.
    """
    splitter = LineSplitter(str(file.path), max_line_bytes)
    damage: DamagedFileError | None = None
    try:
        for index, chunk in enumerate(file.chunks(notes)):
            if index == 0:
                chunk, splitter.offset = _without_mark(chunk, notes)
                _check_rows(chunk, file.path)
            yield from splitter.split(chunk)
    except DamagedFileError as error:
        notes["file-partial"] += 1
        damage = error
    yield from splitter.end(damage)


def _check_rows(chunk: bytes, path: Path) -> None:
    """Raise UserError for a `.json` that is one list, or objects on many lines each."""
    opened = chunk.lstrip()[:1]
    is_json = ".json" in [suffix.lower() for suffix in path.suffixes]
    if is_json and (
        opened == b"[" or (opened == b"{" and chunk.split(b"\n", 1)[0].strip() == b"{")
    ):
        name = path.name.split(".")[0]
        raise UserError(
            "json-not-lines",
            str(path),
            "has JSON over several lines, expected one object a line",
            # A list's items, an object of rows by key, a list in an object, or the objects.
            'jq -c \'if type == "array" or all(.[]; type == "object") then .[] else '
            f"({' // '.join(f'.{key}' for key in sorted(WRAPPERS))} | arrays | .[]) // . end' "
            f"{shlex.quote(str(path))} > {shlex.quote(name)}.jsonl",
        )


class LineSplitter:
    """Splits chunks into lines; holds the unfinished line, or only its hash once it is too long."""

    def __init__(self, file: str, max_line_bytes: int) -> None:
        self.file, self.max_line_bytes = file, max_line_bytes
        self.offset = self.number = 0
        self.rest = b""
        self.oversized: OversizedLine | None = None

    def split(self, chunk: bytes) -> Iterator[RawItem]:
        """The lines that end in this chunk."""
        if self.oversized is not None:
            piece, end, chunk = chunk.partition(b"\n")
            self.oversized.add(piece)
            if not end:
                return
            yield self.oversized.item()
            self.offset, self.oversized = self.oversized.end + 1, None
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        for line in whole:
            self.number += 1
            if len(line) > self.max_line_bytes:
                yield OversizedLine(self.file, self.number, self.offset, line).item()
            elif line.strip():
                yield RawItem(self.file, self.number, self.offset, line.removesuffix(b"\r"))
            self.offset += len(line) + 1
        if len(self.rest) > self.max_line_bytes:
            self.number += 1
            self.oversized = OversizedLine(self.file, self.number, self.offset, self.rest)
            self.rest = b""

    def end(self, damage: DamagedFileError | None) -> Iterator[RawItem]:
        """The last line, where the file does not end with a line end or is damaged."""
        if self.oversized is not None:
            item = self.oversized.item()
            if damage is not None:
                item.damage, item.detail = damage.reason, damage.detail
            yield item
        elif damage is not None or self.rest.strip():
            item = RawItem(self.file, self.number + 1, self.offset, self.rest)
            if damage is not None:
                item.damage, item.detail = damage.reason, damage.detail
            yield item


class OversizedLine:
    """A line that is too long to hold: its length, its hash and its first bytes."""

    def __init__(self, file: str, line: int, offset: int, start: bytes) -> None:
        self.file, self.line, self.offset = file, line, offset
        self.end = offset
        self.start = start[:1024]
        self._hash = hashlib.sha1(usedforsecurity=False)
        self.add(start)

    def add(self, piece: bytes) -> None:
        """More bytes of the line."""
        self._hash.update(piece)
        self.end += len(piece)

    def item(self) -> RawItem:
        """The line as a damaged record."""
        size = self.end - self.offset
        return RawItem(
            self.file,
            self.line,
            self.offset,
            self.start,
            damage="line-too-long",
            detail=f"{size} bytes",
            sha1=self._hash.hexdigest(),
            num_bytes=size,
        )


def texts_of(file: TextFile, *, max_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
    """The text of a file as one item, or several of at most `max_bytes` where it is longer.

    Cut after a blank line, else after a line. Text without either is one oversized line, of which
    only the first bytes are kept, as damaged.
    """
    name, held, offset, number = str(file.path), bytearray(), 0, 0
    damage = detail = ""
    try:
        for index, chunk in enumerate(file.chunks(notes)):
            if index == 0:
                chunk, offset = _without_mark(chunk, notes)
            held += chunk
            while len(held) > max_bytes:
                number += 1
                cut = held.rfind(b"\n\n", 0, max_bytes) + 2
                cut = cut if cut >= 2 else held.rfind(b"\n", 0, max_bytes) + 1
                item = RawItem(name, number, offset, bytes(held[: cut or max_bytes]))
                if not cut:
                    item.damage, cut = "line-too-long", max_bytes
                yield from _damaged_lines_apart(item)
                offset += cut
                del held[:cut]
    except DamagedFileError as error:
        notes["file-partial"] += 1
        damage, detail = error.reason, error.detail
    if held or damage:
        item = RawItem(name, number + 1, offset, bytes(held), damage=damage, detail=detail)
        yield from _damaged_lines_apart(item)


def _damaged_lines_apart(item: RawItem) -> Iterator[RawItem]:
    """A text without its lines that are not UTF-8, and those as an item of their own.

    A wrong byte then costs its line. Where most of the text is damaged it is one item as before.
    """
    assert isinstance(item.data, bytes)
    if item.damage or _is_utf8(item.data):
        yield item
        return
    lines = item.data.split(b"\n")
    damaged = b"\n".join(line for line in lines if not _is_utf8(line))
    if 2 * len(damaged) > len(item.data):
        yield item
        return
    whole = b"\n".join(line for line in lines if _is_utf8(line))
    yield RawItem(item.file, item.line, item.byte_offset, whole)
    yield RawItem(item.file, item.line, item.byte_offset, damaged)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _without_mark(chunk: bytes, notes: Counter[str]) -> tuple[bytes, int]:
    """The first chunk without a UTF-8 byte-order mark, and the length of the mark."""
    if not chunk.startswith(codecs.BOM_UTF8):
        return chunk, 0
    notes["byte-order-mark"] += 1
    return chunk[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
