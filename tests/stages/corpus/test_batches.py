"""A batch of documents: what remains, and numbers measured together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    RawItem,
    Values,
    quarantine_row,
)

SOURCE = Source(kind="files", path="-")


def lengths(texts: Sequence[str]) -> dict[str, Values]:
    return {"characters": np.array(list(map(len, texts)), dtype=np.float64)}


def test_numbers_follow_the_remaining_documents_and_edits() -> None:
    documents = [
        BatchDocument(RawItem("", 1, 0, b""), document=Document("", text, "", ""))
        for text in ("a", "bb", "ccc")
    ]
    batch = DocumentBatch(SOURCE, "", documents)
    assert batch.measure(lengths, ["characters"])["characters"].tolist() == [1, 2, 3]
    batch.drop(documents[0], "too-short")
    assert batch.remaining() == documents[1:]
    assert batch.measure(lengths, ["characters"])["characters"].tolist() == [2, 3]
    batch.edit(documents[2], "")
    assert batch.measure(lengths, ["characters"])["characters"].tolist() == [2, 0]


def test_a_quarantined_record_can_be_found_again() -> None:
    item = RawItem("in/ruim.jsonl.gz", 3, 70, b'{"text": "' + b"\xc3\xa9" * 300)
    document = BatchDocument(item)
    DocumentBatch(SOURCE, "", [document]).quarantine(document, "invalid-json", "why")
    row = quarantine_row(document, SOURCE)
    assert (row["source"], row["line"], row["byte_offset"]) == ("ruim", 3, 70)
    assert (row["reason"], row["detail"], row["num_bytes"]) == ("invalid-json", "why", 610)
    assert len(row["excerpt"]) == 200
