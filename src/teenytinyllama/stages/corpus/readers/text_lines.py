"""Text files as lines, or as whole texts, with their place, in bounded memory."""

from __future__ import annotations

import codecs
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from teenytinyllama.artifacts.decompression import DamagedFileError, chunks_of
from teenytinyllama.errors import UserError
from teenytinyllama.stages.corpus.batches import RawItem

HEAD_BYTES = 1 << 16
# Below this many invalid bytes in the head a file is damaged UTF-8, not another encoding.
MIN_WRONG_BYTES = 4
# Western encodings that Portuguese texts come in.
LEGACY_ENCODINGS = ("cp1252", "iso8859-15", "cp850", "mac_roman")


def lines_of(path: Path, *, max_line_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
    """Every line of a file that is not blank, without its line end.

    A line over `max_line_bytes` becomes an item with `damage` and only its first bytes: the rest is
    hashed and counted, never held. Damage to the file is reported by its last item.
    """
    splitter = LineSplitter(str(path), max_line_bytes)
    damage: DamagedFileError | None = None
    try:
        for index, chunk in enumerate(chunks_of(path, notes)):
            if index == 0:
                chunk, stripped = without_mark(chunk, path)
                _check_rows(chunk, path)
                notes["byte-order-mark"] += stripped > 0
                splitter.offset += stripped
            yield from splitter.split(chunk)
    except DamagedFileError as error:
        notes["file-partial"] += 1
        damage = error
    yield from splitter.end(damage)


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


def texts_of(path: Path, *, max_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
    """The text of a file as one item, or several of at most `max_bytes` where it is longer.

    Cut after a blank line, else after a line. Text without either is one oversized line, of which
    only the first bytes are kept, as damaged.
    """
    name, held, offset, number = str(path), bytearray(), 0, 0
    damage = detail = ""
    try:
        for index, chunk in enumerate(chunks_of(path, notes)):
            if index == 0:
                chunk, stripped = without_mark(chunk, path)
                notes["byte-order-mark"] += stripped > 0
                offset += stripped
            held += chunk
            while len(held) > max_bytes:
                number += 1
                cut = held.rfind(b"\n\n", 0, max_bytes) + 2
                cut = cut if cut >= 2 else held.rfind(b"\n", 0, max_bytes) + 1
                item = RawItem(name, number, offset, bytes(held[: cut or max_bytes]))
                if not cut:
                    item.damage, cut = "line-too-long", max_bytes
                yield item
                offset += cut
                del held[:cut]
    except DamagedFileError as error:
        notes["file-partial"] += 1
        damage, detail = error.reason, error.detail
    if held or damage:
        yield RawItem(name, number + 1, offset, bytes(held), damage=damage, detail=detail)


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
    """Name of the encoding of a file that is not UTF-8, guessed from its first bytes; else "".

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
    """UTF-16 or UTF-32 without a mark: the high bytes of Latin letters are zero, no others."""
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
    """The 8-bit encoding in which most of the high bytes are lower-case letters inside words.

    Empty where there is none: then the bytes are damage, not an encoding.
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
