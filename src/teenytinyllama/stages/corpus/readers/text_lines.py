"""Lines of a text file with their place, in bounded memory, whatever the file holds."""

from __future__ import annotations

import codecs
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from teenytinyllama.errors import UserError
from teenytinyllama.stages.corpus.corpus_records import RawItem
from teenytinyllama.stages.corpus.readers.decompression import Damaged, chunks_of

HEAD_BYTES = 1 << 16
# Below this many wrong bytes in the head a file is UTF-8 with faults, not another encoding.
MIN_WRONG_BYTES = 4
# Western encodings that Portuguese texts are found in.
LEGACY_ENCODINGS = ("cp1252", "iso8859-15", "cp850", "mac_roman")


def lines_of(path: Path, *, max_line_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
    """Every line of a file that is not blank, without its line end.

    A line over `max_line_bytes` comes as an item with `damage` and no more than its first bytes:
    the rest is hashed and counted, never held. Damage to the file is told by its last item.
    """
    cutter = _Cutter(str(path), max_line_bytes)
    fault: Damaged | None = None
    try:
        for index, chunk in enumerate(chunks_of(path, notes)):
            if index == 0:
                chunk, stripped = without_mark(chunk, path)
                _check_rows(chunk, path)
                notes["byte-order-mark"] += stripped > 0
                cutter.offset += stripped
            yield from cutter.cut(chunk)
    except Damaged as damaged:
        notes["file-partial"] += 1
        fault = damaged
    yield from cutter.end(fault)


def _check_rows(chunk: bytes, path: Path) -> None:
    """Raise UserError for a `.json` that is one list, or one object on many lines."""
    opened = chunk.lstrip()[:1]
    is_json = ".json" in [suffix.lower() for suffix in path.suffixes]
    if is_json and (
        opened == b"[" or (opened == b"{" and chunk.split(b"\n", 1)[0].strip() == b"{")
    ):
        name = path.name.split(".")[0]
        raise UserError(
            "json-not-lines",
            str(path),
            "is one JSON value, expected one object a line",
            f"jq -c '.[]' {path} > {name}.jsonl",
        )


class _Cutter:
    """Cuts chunks into lines; holds the unfinished line, or only its hash once it is too long."""

    def __init__(self, file: str, max_line_bytes: int) -> None:
        self.file, self.max_line_bytes = file, max_line_bytes
        self.offset = self.number = 0
        self.rest = b""
        self.giant: _Giant | None = None

    def cut(self, chunk: bytes) -> Iterator[RawItem]:
        """The lines that end in this chunk."""
        if self.giant is not None:
            piece, end, chunk = chunk.partition(b"\n")
            self.giant.add(piece)
            if not end:
                return
            yield self.giant.item()
            self.offset, self.giant = self.giant.end + 1, None
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        for line in whole:
            self.number += 1
            if len(line) > self.max_line_bytes:
                yield _Giant(self.file, self.number, self.offset, line).item()
            elif line.strip():
                yield RawItem(self.file, self.number, self.offset, line.removesuffix(b"\r"))
            self.offset += len(line) + 1
        if len(self.rest) > self.max_line_bytes:
            self.number += 1
            self.giant = _Giant(self.file, self.number, self.offset, self.rest)
            self.rest = b""

    def end(self, fault: Damaged | None) -> Iterator[RawItem]:
        """The last line, where the file does not end with a line end or is damaged."""
        if self.giant is not None:
            item = self.giant.item()
            if fault is not None:
                item.damage, item.detail = fault.reason, fault.detail
            yield item
        elif fault is not None or self.rest.strip():
            item = RawItem(self.file, self.number + 1, self.offset, self.rest)
            if fault is not None:
                item.damage, item.detail = fault.reason, fault.detail
            yield item


class _Giant:
    """A line too long to hold: its length, its hash and its first bytes."""

    def __init__(self, file: str, line: int, offset: int, start: bytes) -> None:
        self.file, self.line, self.offset = file, line, offset
        self.end = offset
        self.start = start[:1024]
        self._hash = hashlib.sha1(usedforsecurity=False)
        self.add(start)

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.end += len(piece)

    def item(self) -> RawItem:
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


def without_mark(chunk: bytes, path: Path) -> tuple[bytes, int]:
    """The first chunk without a UTF-8 byte-order mark, and the length of the mark.

    Raises UserError naming the encoding where the file is not UTF-8.
    """
    encoding = foreign_encoding(chunk[:HEAD_BYTES])
    if encoding:
        raise UserError(
            "encoding",
            str(path),
            f"is written in {encoding}, expected UTF-8",
            f"iconv -f {encoding} -t UTF-8 {path} > {path.name.split('.')[0]}-utf8{_suffix(path)}",
        )
    if chunk.startswith(codecs.BOM_UTF8):
        return chunk[3:], 3
    return chunk, 0


def _suffix(path: Path) -> str:
    return "".join(s for s in path.suffixes if s not in (".gz", ".zst"))


def foreign_encoding(head: bytes) -> str:
    """Name of the encoding of a file that is not UTF-8, told from its first bytes; else "".

    >>> foreign_encoding("ação, coração, pão".encode("cp1252"))
    'CP1252'
    >>> foreign_encoding("ação".encode("utf-16"))
    'UTF-16'
    >>> foreign_encoding("ação e um erro: ".encode() + bytes([0xff]))
    ''
    """
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if head.startswith(mark):
            return name
    wide = _wide_encoding(head)
    if wide:
        return wide
    text = head.decode("utf-8", "replace")
    wrong = text.count("�") - head.count("�".encode())
    right = sum(c > "\x7f" and c != "�" for c in text) if wrong >= MIN_WRONG_BYTES else 0
    if wrong >= MIN_WRONG_BYTES and wrong > 3 * right and head.count(0) * 20 < len(head):
        return _likeliest_legacy(head)
    return ""


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 without a mark: zeros in the high bytes of Latin letters, and only there."""
    zeros = [head[k::4].count(0) * 4 / max(len(head), 1) for k in range(4)]
    for name, high in (
        ("UTF-32LE", (1, 2, 3)),
        ("UTF-32BE", (0, 1, 2)),
        ("UTF-16LE", (1, 3)),
        ("UTF-16BE", (0, 2)),
    ):
        low = [zeros[k] for k in range(4) if k not in high]
        if min(zeros[k] for k in high) > 0.7 and max(low) < 0.1:
            return name
    return ""


def _likeliest_legacy(head: bytes) -> str:
    """The 8-bit encoding under which most of the high bytes are small letters inside words.

    Empty where none makes words of them: then the bytes are damage, not an encoding.
    """
    best, best_share = "", 0.6
    high = sum(byte > 0x7F for byte in head)
    for encoding in LEGACY_ENCODINGS:
        text = head.decode(encoding, "replace")
        letters = sum(
            c > "\x7f" and c.islower() and (a.isalpha() or b.isalpha())
            for a, c, b in zip(" " + text, text, text[1:] + " ", strict=False)
        )
        if letters / high > best_share:
            best, best_share = encoding.upper().replace("ISO8859", "ISO-8859"), letters / high
    return best.replace("MAC_ROMAN", "MACINTOSH")
