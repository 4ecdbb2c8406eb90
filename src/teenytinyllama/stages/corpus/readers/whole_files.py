"""Plain text files: one file, one document; a giant is cut between paragraphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from teenytinyllama.stages.corpus.corpus_records import RawItem
from teenytinyllama.stages.corpus.readers.decompression import Damaged, chunks_of
from teenytinyllama.stages.corpus.readers.text_lines import without_mark


def pieces_of(path: Path, *, max_bytes: int, notes: Counter[str]) -> Iterator[RawItem]:
    """The text of a file as one item, or several of at most `max_bytes` where it is longer.

    Cuts fall after a blank line, else after a line; text without either is one giant line, which
    is cut off and told as damage.
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
    except Damaged as damaged:
        notes["file-partial"] += 1
        damage, detail = damaged.reason, damaged.detail
    if held or damage:
        yield RawItem(name, number + 1, offset, bytes(held), damage=damage, detail=detail)
