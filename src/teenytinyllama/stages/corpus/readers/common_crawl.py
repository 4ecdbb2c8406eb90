"""Common Crawl files: WET (text already) and WARC (plain text, and pages in which trafilatura finds
the text).

Records are read from the stream one by one; those that are no page are skipped and counted.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import zstandard

from teenytinyllama.artifacts.decompression import DamagedFileError, chunks_of
from teenytinyllama.artifacts.encodings import HEAD_BYTES, UNKNOWN, detect_encoding
from teenytinyllama.errors import missing_extra
from teenytinyllama.stages.corpus.batches import RawItem

MAX_HEADER_BYTES = 1 << 16
NEAR_BYTES = 64
MAX_TAGS = 50_000
"""Large pages of the web have a fifth. trafilatura's time grows with the square of the paragraphs:
as many take 20 seconds, ten times as many an hour."""
PAGE_TYPES = ("text/html", "application/xhtml+xml")
HEAD_END = re.compile(rb"\r?\n\r?\n")
RECORD = re.compile(rb"(?:\A|\r?\n\r?\n)WARC/")
# Some versions of wget give a length that is one or two bytes short.
NEAR_RECORD = re.compile(rb"[^\r\n]{0,8}[\r\n]+(?=WARC/|\Z)")
CHUNK_HEAD = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
CHUNK_END = re.compile(rb"\r?\n")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]+)", re.IGNORECASE)


def pages_of(
    path: Path, *, max_bytes: int, language: str, notes: Counter[str]
) -> Iterator[RawItem]:
    """Every page of a file as a row with `url` and `text`, or with `html` to extract text from."""
    reader = _RecordStream(path, notes)
    number = 0
    while True:
        number += 1
        start = reader.offset
        try:
            headers = reader.headers()
            if headers is None:
                return
            size = _length(headers)
            block = reader.take(min(size, max_bytes + 1))
            reader.skip(size - len(block))
        except DamagedFileError as error:
            notes["file-partial"] += 1
            yield RawItem(str(path), number, start, b"", damage=error.reason, detail=str(error))
            return
        except ValueError as error:
            notes["file-partial"] += 1
            reader.skip_to_record()
            skipped = reader.offset - start
            detail = f"{error}; {skipped:,} bytes until the next record are not read"
            yield RawItem(str(path), number, start, b"", damage="web-record-damaged", detail=detail)
            continue
        row = _row(headers, block, max_bytes, notes)
        if row is None:
            continue
        damage = _decode_text(row, language, notes)
        size = max(size, *(len(text) for text in row.values() if isinstance(text, bytes | str)))
        item = RawItem(str(path), number, start, row, damage=damage, num_bytes=size)
        if size > max_bytes:
            item.damage, item.detail = "line-too-long", f"a page of {size} bytes"
            item.data = b""
        yield item


def _length(headers: dict[str, str]) -> int:
    """Bytes of a record's block. Raises ValueError for what is no number of bytes."""
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"a content-length of {text[:40]!r}")
    return int(text)


def _row(
    headers: dict[str, str], block: bytes, max_bytes: int, notes: Counter[str]
) -> dict[str, object] | None:
    kind = headers.get("warc-type", "")
    row: dict[str, object] = {
        "id": headers.get("warc-record-id", "").strip("<>").removeprefix("urn:uuid:"),
        "url": headers.get("warc-target-uri", "").strip("<>"),
    }
    if kind == "conversion":
        return {**row, "text": block.decode("utf-8", "replace")}
    if kind == "response":
        end = HEAD_END.search(block)
        status, http = _parse_head(block[: end.start() if end else len(block)])
        body = block[end.end() :] if end else b""
        key = _field_of(str(row["url"]), http)
        if key and status.split(" ")[1:2] == ["200"]:
            body = _decode_body(body, http, max_bytes, notes)
            return {**row, key: _decode_charset(body, http)}
    if kind == "resource" and (key := _field_of(str(row["url"]), headers)):
        return {**row, key: _decode_charset(block, headers)}
    notes["web-record-no-page"] += 1
    return None


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    r"""First line and headers, names lower-cased. Lines may be folded and end in a bare LF.

    >>> _parse_head(b"HTTP/1.1 200 OK\nContent-Type: text/html;\n charset=utf-8")
    ('HTTP/1.1 200 OK', {'content-type': 'text/html; charset=utf-8'})
    """
    # Archives are UTF-8 by their standard, headers of servers are bytes: Latin-1 keeps each.
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        text = head.decode("latin-1")
    first, *lines = re.sub(r"\r?\n[ \t]+", " ", text).replace("\r\n", "\n").split("\n")
    pairs = [line.partition(":") for line in lines if ":" in line]
    return first, {name.lower().strip(): value.strip() for name, _, value in pairs}


def _field_of(url: str, headers: dict[str, str]) -> str:
    """`html` for a page, `text` for plain text that is for readers, "" for anything else.

    What crawlers write about themselves or read for themselves is plain text too: wget's log, the
    text that a browser showed of a page that is there already, robots.txt.
    """
    kind = headers.get("content-type", "").lower()
    if any(page in kind for page in PAGE_TYPES):
        return "html"
    is_crawlers = url.startswith(("metadata:", "urn:")) or url.endswith("/robots.txt")
    return "text" if kind.split(";")[0].strip() == "text/plain" and not is_crawlers else ""


def _decode_body(body: bytes, http: dict[str, str], max_bytes: int, notes: Counter[str]) -> bytes:
    """The page without its transfer and content codings (RFC 9112, RFC 9110).

    Some crawlers store the decoded body beside the headers of the coded one: where a coding does
    not fit the bytes, they are taken as they are.
    """
    if "chunked" in http.get("transfer-encoding", "").lower():
        body = _join_chunks(body, notes)
    for coding in reversed(http.get("content-encoding", "").lower().split(",")):
        body = _decompress(body, coding.strip(), max_bytes, notes)
    return body


def _join_chunks(body: bytes, notes: Counter[str]) -> bytes:
    parts: list[bytes] = []
    at = 0
    while head := CHUNK_HEAD.match(body, at):
        size = int(head[1], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[head.end() : head.end() + size])
        at = head.end() + size
        end = CHUNK_END.match(body, at)
        at = end.end() if end else at
    if not parts:
        return body  # decoded already
    notes["web-record-cut"] += 1
    return b"".join(parts)


def _decompress(body: bytes, coding: str, max_bytes: int, notes: Counter[str]) -> bytes:
    """Undo one content coding, to a byte beyond `max_bytes`; the body where it does not fit."""
    try:
        if coding in ("gzip", "x-gzip"):
            return _inflate(body, 31, max_bytes + 1, notes)
        if coding == "deflate":  # with the head of zlib as the standard says, or without
            return _inflate(body, 15 if body[:1] == b"x" else -15, max_bytes + 1, notes)
        if coding == "zstd":
            unpack = zstandard.ZstdDecompressor()
            with unpack.stream_reader(body, read_across_frames=True) as reader:
                return reader.read(max_bytes + 1)
    except (zlib.error, zstandard.ZstdError):
        return body
    if coding == "br" and b"<" not in body[:512]:
        notes["web-record-brotli"] += 1
        return b""
    return body


def _inflate(body: bytes, wbits: int, max_bytes: int, notes: Counter[str]) -> bytes:
    """Every member of a body, to at most `max_bytes`; one that is cut is counted."""
    made = b""
    while body and len(made) < max_bytes:
        inflate = zlib.decompressobj(wbits)
        try:
            made += inflate.decompress(body, max_bytes - len(made))
        except zlib.error:
            if not made:
                raise
            break  # what follows the last member is no other
        if not inflate.eof and len(made) < max_bytes:
            notes["web-record-cut"] += 1
        body = inflate.unused_data
    return made


def _decode_charset(body: bytes, headers: dict[str, str]) -> bytes | str:
    """The page as text where its header names a charset that fits, else its bytes.

    A byte-order mark is stronger than the header, the header than the page's own words (HTML
    standard). The names of ISO-8859-1 and ASCII mean Windows-1252 there.
    """
    found = CHARSET.search(headers.get("content-type", ""))
    if not found or body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body
    try:
        name = codecs.lookup(found[1]).name
        return body.decode("cp1252" if name in ("iso8859-1", "ascii") else name)
    except (LookupError, UnicodeDecodeError):
        return body


def _decode_text(row: dict[str, object], language: str, notes: Counter[str]) -> str:
    """Decode plain text without a charset, as files of text are; the damage where that fails."""
    text = row.get("text")
    if isinstance(text, bytes):
        try:
            name = detect_encoding(text[:HEAD_BYTES], language) or "utf-8"
            row["text"] = text.decode(name)
        except (DamagedFileError, UnicodeDecodeError):
            row["text"] = text.decode("utf-8", "replace")
            return UNKNOWN
        if name not in ("utf-8", "utf_8_sig"):
            notes[f"decoded-{name}"] += 1
    return ""


class _RecordStream:
    """The bytes of a file, taken header by header and block by block."""

    def __init__(self, path: Path, notes: Counter[str]) -> None:
        self._chunks, self._notes = chunks_of(path, notes), notes
        self._held = b""
        self.offset = 0

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._held += chunk
        return bool(chunk)

    def headers(self) -> dict[str, str] | None:
        """The headers of the next record, names lower-cased; None at the end of the file."""
        while not self._held.lstrip(b"\r\n"):
            if not self._more():
                return None
        blank = len(self._held) - len(self._held.lstrip(b"\r\n"))
        self.take(blank)
        while len(self._held) < NEAR_BYTES and self._more():
            pass
        if short := NEAR_RECORD.match(self._held):
            self._notes["web-record-length"] += 1
            self.take(short.end())
            if not self._held:
                return None
        while (end := HEAD_END.search(self._held)) is None:
            if len(self._held) > MAX_HEADER_BYTES or not self._more():
                self.take(min(len(self._held), 1))  # this head is not found again
                raise ValueError("no end of a record's headers")
        version, headers = _parse_head(self.take(end.end()).rstrip(b"\r\n"))
        if not version.startswith("WARC/"):
            raise ValueError(f"a record begins with {version[:40]!r}, not WARC/")
        return headers

    def take(self, size: int) -> bytes:
        """The next bytes. Raises ValueError where the file ends before."""
        while len(self._held) < size:
            if not self._more():
                raise ValueError("the file ends inside a record")
        taken, self._held = self._held[:size], self._held[size:]
        self.offset += size
        return taken

    def skip_to_record(self) -> None:
        """Skip to the head of the next record, or to the end of the file or its damage."""
        try:
            while (found := RECORD.search(self._held)) is None:
                # What may be the start of a head stays.
                self.take(max(len(self._held) - 16, 0))
                if not self._more():
                    break
        except DamagedFileError:
            found = None  # the notes count its bytes
        self.take(found.end() - len(b"WARC/") if found else len(self._held))

    def skip(self, size: int) -> None:
        """Skip bytes without holding them."""
        while size > 0:
            size -= len(self.take(min(size, len(self._held) or 1)))


def num_tags(html: bytes | str) -> int:
    """How many tags a page has at most."""
    return html.count(b"<") if isinstance(html, bytes) else html.count("<")


def text_of_page(html: bytes | str, url: str) -> str:
    """The main text of a page, without menus and comments; empty where there is none."""
    try:
        import trafilatura
    except ImportError as error:
        raise missing_extra("trafilatura", "web") from error
    found = trafilatura.extract(
        html, url=url or None, include_comments=False, include_tables=False, deduplicate=False
    )
    return str(found or "")
