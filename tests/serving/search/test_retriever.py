"""BM25 retrieval: pairs of stems, and an index kept for its data only."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.chat_data import CONVERSATIONS, turn
from support.mapped_files import is_mapped

from teenytinyllama.serving.search.retriever import build_index, open_index


def test_an_index_is_opened_for_the_same_data_only(tmp_path: Path) -> None:
    built = build_index(tmp_path / "index", CONVERSATIONS, "print", "pt")
    kept = open_index(tmp_path / "index", "print", "pt")
    assert kept is not None
    assert kept.nearest("raposa floresta", 5) == built.nearest("raposa floresta", 5)
    assert open_index(tmp_path / "index", "other", "pt") is None
    example = built.example(3)
    for path in (tmp_path / "index").iterdir():
        assert not is_mapped(path)
        if path.name != "index.json":
            path.write_bytes(b"")
    assert kept.example(3) == built.example(3) == example
    assert kept.nearest("raposa floresta", 5) == built.nearest("raposa floresta", 5)
    assert open_index(tmp_path / "index", "print", "pt") is None


def test_two_stems_in_order_rank_above_the_same_stems_apart(tmp_path: Path) -> None:
    rows = [("a", turn("q", "rio azul e mar")), ("a", turn("q", "azul e mar rio"))]
    index = build_index(tmp_path / "index", [*rows, *CONVERSATIONS], "print", "pt")
    assert [number for number, _ in index.nearest("mar rio", 2)] == [1, 0]


@pytest.mark.parametrize(
    "name", ["examples.jsonl", "words.json", "order.npy", "data.csc.index.npy", "vocab.index.json"]
)
def test_a_cut_index_is_not_opened(tmp_path: Path, name: str) -> None:
    build_index(tmp_path / "index", CONVERSATIONS, "print", "pt")
    path = tmp_path / "index" / name
    path.write_bytes(path.read_bytes()[:-5])
    assert open_index(tmp_path / "index", "print", "pt") is None
