"""Texts and ids that occurred before."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.errors import UserError

LINES = json_lines(*GOOD)


def test_29_duplicate_ids_are_numbered(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*GOOD, id="one"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(row["id"] for row in left.rows("*-*.zst")) == ["one", "one#2", "one#3", "one#4"]
    assert left.counts["notes"] == {"duplicate-id": 3}


def test_30_nothing_but_duplicates_is_an_error(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(*[GOOD[0]] * 9))
    with pytest.raises(UserError, match=r"1 documents remain of 9; largest filter: duplicate-exac"):
        stage(tmp_path / "a.jsonl")


def test_a_dropped_document_makes_no_other_a_copy(stage: Stage, tmp_path: Path) -> None:
    blocked = json_lines(GOOD[0], url="https://ruim.br/a")
    (tmp_path / "a.jsonl").write_bytes(blocked + json_lines(*GOOD, url="https://bom.br/a"))
    left = stage(
        tmp_path / "a.jsonl",
        filters={"families": ("address",), "blocked_domains": ("ruim.br",)},
        near_duplicates=None,
    )
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["filtered_by_reason"] == {"url_domain": 1}
    assert left.counts["duplicate_by_reason"] == {}
