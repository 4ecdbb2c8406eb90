"""What travels through the stage: raw items as they are read, faults, and prepared batches.

A record is one line of JSON, one row of a table or one text file. It becomes a document, or a
fault that goes to `quarantine.jsonl`; it never becomes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

EXCERPT_CHARACTERS = 200


@dataclass(slots=True)
class Fault:
    """A record that cannot be used: where it stands and why, enough to find and mend it."""

    source: str
    file: str
    line: int
    byte_offset: int
    reason: str
    detail: str
    sha1: str
    excerpt: str
    num_bytes: int


@dataclass(slots=True)
class RawItem:
    """One record before anything is known of it: bytes of a line or text file, or a table row.

    `line` counts from 1; `byte_offset` is that of the record in the unpacked file. `damage` names
    what cut the record short, for the last line of a damaged file.
    """

    file: str
    line: int
    byte_offset: int
    data: bytes | dict[str, Any]
    damage: str = ""
    detail: str = ""
    sha1: str = ""
    num_bytes: int = 0


@dataclass(slots=True)
class RawBatch:
    """Records of one source in reading order: what one worker prepares in one go.

    `last`: the file ends here.
    """

    source: int
    kind: str
    items: list[RawItem] = field(default_factory=list)
    num_bytes: int = 0
    last: bool = False


@dataclass(slots=True)
class Entry:
    """One document of a prepared batch, as the ledger and the duplicate search see it.

    `num_bytes` is the length of the text as it was read; `reason` the rule that drops it, or "".
    `band_keys`: what it shares with near duplicates, where they are looked for;
    `paragraphs`: hashes of its lines, 8 bytes each.
    """

    digest: bytes
    id_digest: bytes
    source: str
    license: str
    num_bytes: int
    reason: str
    band_keys: bytes = b""
    paragraphs: bytes = b""


@dataclass(slots=True)
class Prepared:
    """A batch after a worker read, cleaned and judged it; the texts are packed in `frame`."""

    source: int
    frame: bytes
    entries: list[Entry]
    faults: list[Fault]
    notes: Counter[str]
    first_keys: tuple[str, ...] = ()
    last: bool = False


def make_fault(item: RawItem, source: str, reason: str, detail: str = "") -> Fault:
    """The fault of one raw item, with hash and the first characters of what stands there."""
    data = item.data if isinstance(item.data, bytes) else repr(item.data).encode("utf-8", "replace")
    excerpt = data[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "replace")[:EXCERPT_CHARACTERS]
    return Fault(
        source=source,
        file=item.file,
        line=item.line,
        byte_offset=item.byte_offset,
        reason=reason,
        detail=detail or item.detail,
        sha1=item.sha1 or hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        excerpt=excerpt,
        num_bytes=item.num_bytes or len(data),
    )
