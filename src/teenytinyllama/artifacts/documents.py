"""Documents: what the corpus stage writes, as Zstandard-compressed JSON Lines.

`corpus/train-00000.jsonl.zst` ... and `corpus/heldout-00000.jsonl.zst` ...: one object a line with
`id, text, source, license, url, scores`, and `messages` where it is a conversation. The two
splits share no document.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import zstandard

from teenytinyllama.artifacts.conversations import Message
from teenytinyllama.artifacts.decompression import DamagedFileError, open_decompressed
from teenytinyllama.errors import UserError

Split = Literal["train", "heldout"]
BYTES_PER_SHARD = 256 * 1024 * 1024


@dataclass(slots=True)
class Document:
    """One cleaned text with its id, source and licence; `scores` are the filters' measurements."""

    id: str
    text: str
    source: str
    license: str
    url: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    """The messages of a conversation; their text is also in `text`."""

    @property
    def num_bytes(self) -> int:
        """Length of the text in UTF-8 bytes: the unit of every size in this project."""
        return len(self.text.encode("utf-8"))


def document_row(document: Document) -> dict[str, Any]:
    """The document as a line of JSON has it: `messages` only for a conversation."""
    row = asdict(document)
    if not document.messages:
        del row["messages"]
    return row


class DocumentWriter:
    """Writes the documents of one split in the given order, in shards of about 256 MB.

    Equal documents give equal bytes. Files are complete and synced when the `with` block ends.
    """

    def __init__(self, folder: Path, stem: str, *, bytes_per_shard: int = BYTES_PER_SHARD) -> None:
        self.folder, self.stem, self.bytes_per_shard = folder, stem, bytes_per_shard
        self.num_documents = 0
        self.num_bytes = 0
        self._shard = 0
        self._bytes_left = 0
        self._raw: io.BufferedWriter | None = None
        self._stream: zstandard.ZstdCompressionWriter | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open()
        return self

    def _open(self) -> None:
        path = self.folder / f"{self.stem}-{self._shard:05d}.jsonl.zst"
        self._raw = path.open("wb")
        self._stream = zstandard.ZstdCompressor(level=3).stream_writer(self._raw, closefd=False)
        self._bytes_left = self.bytes_per_shard

    def _close(self) -> None:
        if self._stream is None or self._raw is None:
            return
        self._stream.close()  # type: ignore[no-untyped-call]
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        self._stream = self._raw = None

    def write(self, document: Document) -> None:
        """Append one document."""
        line = (json.dumps(document_row(document), ensure_ascii=False) + "\n").encode("utf-8")
        if self._bytes_left < len(line) and self._bytes_left < self.bytes_per_shard:
            self._close()
            self._shard += 1
            self._open()
        assert self._stream is not None
        self._stream.write(line)
        self._bytes_left -= len(line)
        self.num_documents += 1
        self.num_bytes += document.num_bytes

    def __exit__(self, *_: object) -> None:
        self._close()


def document_paths(corpus_dir: Path, split: Split) -> list[Path]:
    """The shards of one split, in reading order."""
    return sorted(corpus_dir.glob(f"{split}-*.jsonl.zst"))


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of one of our shards. Raises UserError where it is damaged."""
    number = 0
    try:
        if not path.stat().st_size:  # we write no empty file: even no document is one frame
            raise ValueError("it is empty")
        with open_decompressed(path, bomb_ratio=0) as file:
            for line in file:
                number += 1
                yield json.loads(line)
    except (DamagedFileError, ValueError, RecursionError) as error:
        raise UserError(
            "documents-damaged",
            f"{path}:{number + 1}",
            f"this shard cannot be read ({error})",
            "run `ttl corpus RECIPE --redo`",
        ) from error


def read_documents(corpus_dir: Path, split: Split) -> Iterator[Document]:
    """Every document of a split, in the order written.

    Raises UserError where the folder holds no shard of this split.
    """
    paths = document_paths(corpus_dir, split)
    if not paths:
        raise UserError(
            "documents-missing",
            str(corpus_dir),
            f"no {split}-*.jsonl.zst here",
            "run `ttl corpus RECIPE` first",
        )
    for path in paths:
        for row in read_json_lines(path):
            yield Document(**row)
