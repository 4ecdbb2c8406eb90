"""State between the passes: counts that sum, ids that differ, texts that come back in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from teenytinyllama.stages.corpus import staging
from teenytinyllama.stages.corpus.batches import IndexEntry
from teenytinyllama.stages.corpus.staging import CorpusStats, DocumentIndex, StagingFile


def test_outcomes_sum_to_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_SOURCES", 2)
    stats = CorpusStats()
    for source, outcome, reason in (
        ("a", "kept", ""),
        ("b", "filtered", "too-short"),
        ("c", "duplicate", "duplicate-exact"),
        ("d", "quarantined", "invalid-json"),
    ):
        stats.add(source, outcome, reason, 10)
    counts = stats.counts()
    assert (counts["documents_read"], counts["bytes_read"]) == (4, 40)
    assert {name: row["documents_read"] for name, row in counts["sources"].items()} == {
        "a": 1,
        "b": 1,
        "other": 2,
    }
    assert counts["quarantined_by_reason"] == {"invalid-json": 1}
    with pytest.raises(AssertionError, match="lost"):
        stats.add("a", "lost", "", 1)


def test_index_keeps_decisions_and_original_digests() -> None:
    index = DocumentIndex()
    digests = [bytes([number]) * 16 for number in (1, 200)]
    index.add([IndexEntry(digest, b"", "s", "MIT", 5, "", b"", b"") for digest in digests])
    index.heldout_limit = 1 << 63
    index.edited_digests[0] = digests[1]
    index.drop(1, "duplicate-exact", duplicate_of=0)
    assert [index.is_heldout(row) for row in (0, 1)] == [True, False]
    assert (index.final_digest(0), index.digest(0)) == (digests[1], digests[0])
    assert (index.reason(0), index.reason(1), index.source(1)) == ("", "duplicate-exact", "s")


def test_wanted_rows_come_back_in_order(tmp_path: Path) -> None:
    texts = StagingFile(tmp_path / "texts")
    for first, count in ((0, 3), (3, 2), (5, 1)):
        lines = [json.dumps({"n": row}) for row in range(first, first + count)]
        texts.add(zstandard.ZstdCompressor().compress("\n".join(lines).encode()), count)
    texts.close()
    assert list(texts.batches({1, 5})) == [[(1, {"n": 1})], [(5, {"n": 5})]]
    assert [row for batch in texts.batches() for row, _ in batch] == list(range(6))
