"""Common Crawl files: WET (text already) and WARC (pages, whose text trafilatura finds).

Records are read from the stream one by one; those that are no page are skipped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from teenytinyllama.artifacts.decompression import DamagedFileError, chunks_of
from teenytinyllama.errors import missing_extra
from teenytinyllama.stages.corpus.batches import RawItem

MAX_HEADER_BYTES = 1 << 16
WEB_SUFFIXES = (".warc", ".wet")
PAGE_TYPES = ("text/html", "application/xhtml+xml")


def pages_of(path: Path, *, max_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
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
            size = int(headers.get("content-length", "0"))
            block = reader.take(min(size, max_bytes + 1))
            reader.skip(size - len(block))
        except (DamagedFileError, ValueError) as error:
            reason = error.reason if isinstance(error, DamagedFileError) else "web-record-damaged"
            notes["file-partial"] += 1
            yield RawItem(str(path), number, start, b"", damage=reason, detail=str(error))
            return
        row = _row(headers, block, notes)
        if row is None:
            continue
        item = RawItem(str(path), number, start, row, num_bytes=size)
        if size > max_bytes:
            item.damage, item.detail = "line-too-long", f"a page of {size} bytes"
        yield item


def _row(headers: dict[str, str], block: bytes, notes: Counter[str]) -> dict[str, object] | None:
    kind = headers.get("warc-type", "")
    row: dict[str, object] = {
        "id": headers.get("warc-record-id", "").strip("<>").removeprefix("urn:uuid:"),
        "url": headers.get("warc-target-uri", "").strip("<>"),
    }
    if kind == "conversion":
        return {**row, "text": block.decode("utf-8", "replace")}
    if kind == "response":
        head, _, body = block.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        types = [line for line in lines if line.lower().startswith("content-type:")]
        is_page = any(kind in types[0].lower() for kind in PAGE_TYPES) if types else False
        if is_page and status.split(" ")[1:2] == ["200"]:
            return {**row, "html": body}
    notes["web-record-no-page"] += 1
    return None


class _RecordStream:
    """The bytes of a file, taken header by header and block by block."""

    def __init__(self, path: Path, notes: Counter[str]) -> None:
        self._chunks = chunks_of(path, notes)
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
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > MAX_HEADER_BYTES or not self._more():
                raise ValueError("no end of a record's headers")
        version, *lines = self.take(end + 4).decode("utf-8", "replace").split("\r\n")
        if not version.startswith("WARC/"):
            raise ValueError(f"a record begins with {version[:40]!r}, not WARC/")
        pairs = [line.partition(":") for line in lines if ":" in line]
        return {name.lower().strip(): value.strip() for name, _, value in pairs}

    def take(self, size: int) -> bytes:
        """The next bytes. Raises ValueError where the file ends before."""
        while len(self._held) < size:
            if not self._more():
                raise ValueError("the file ends inside a record")
        taken, self._held = self._held[:size], self._held[size:]
        self.offset += size
        return taken

    def skip(self, size: int) -> None:
        """Skip bytes without holding them."""
        while size > 0:
            size -= len(self.take(min(size, len(self._held) or 1)))


def text_of_page(html: bytes, url: str) -> str:
    """The main text of a page, without menus and comments; empty where there is none."""
    try:
        import trafilatura
    except ImportError as error:
        raise missing_extra("trafilatura", "web") from error
    found = trafilatura.extract(
        html, url=url or None, include_comments=False, include_tables=False, deduplicate=False
    )
    return str(found or "")
