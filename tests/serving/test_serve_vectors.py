"""The model's own view of the chat data: vectors worked out by hand, kept, opened and asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.running_server import Running, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.search import vectors as vectors_module
from teenytinyllama.serving.search.chat_sources import sources_of
from teenytinyllama.serving.search.search_service import Lookup
from teenytinyllama.serving.search.vectors import (
    Vectors,
    build_vectors,
    fingerprint_of_table,
    open_vectors,
)


def test_vectors_are_those_of_the_formula(tmp_path: Path) -> None:
    table = np.array([[1, 0], [0, 1], [1, 1], [2, 3]], np.float32)
    texts = [[0, 0, 1], [1, 2], [2], []]
    vectors = build_vectors(tmp_path / "v", texts, table, "print")
    # Tokens 0, 1, 2 stand in 1, 2, 2 of 4 texts; a width of 2 has no common direction to lose.
    rare, common = np.log(5 / 2), np.log(5 / 3)
    means = np.array(
        [
            (2 * rare * table[0] + common * table[1]) / (2 * rare + common),
            (table[1] + table[2]) / 2,
            table[2],
            [0, 0],
        ]
    )
    centred = means - means.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for number, text in enumerate(texts[:3]):
        told = dict(vectors.nearest(text, 4))
        assert [told[other] for other in range(4)] == pytest.approx(
            (expected @ expected[number]).tolist(),
            abs=0.02,  # one byte a number
        )
        assert told[number] == max(told.values())
    assert vectors.nearest([], 4) == [] == vectors.nearest([99], 4)


def test_wide_tables_are_cut_to_the_directions_that_tell_texts_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((40, 2)).astype(np.float32)
    table = np.concatenate((plane, np.zeros((40, 200), np.float32)), axis=1)
    texts = [rng.integers(0, 40, 5).tolist() for _ in range(300)]
    vectors_module_numbers = vectors_module.MAX_NUMBERS
    assert table.shape[1] > vectors_module_numbers
    wide = build_vectors(tmp_path / "wide", texts, table, "print")
    assert wide._codes.shape == (300, vectors_module_numbers)
    assert wide._codes.dtype == np.int8
    for number in (0, 7, 250):
        assert wide.nearest(texts[number], 1)[0][1] <= 1.01


def test_blocks_of_texts_give_what_one_text_at_a_time_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    table = rng.standard_normal((30, 16)).astype(np.float32)
    texts = [rng.integers(0, 30, rng.integers(0, 9)).tolist() for _ in range(60)]
    whole = build_vectors(tmp_path / "whole", texts, table, "print")
    monkeypatch.setattr(vectors_module, "TOKENS_AT_ONCE", 3)
    monkeypatch.setattr(vectors_module, "ROWS_AT_ONCE", 7)
    parts = build_vectors(tmp_path / "parts", texts, table, "print")
    assert np.array_equal(whole._codes, parts._codes)
    assert [n for n, _ in whole.nearest([3, 4], 9)] == [n for n, _ in parts.nearest([3, 4], 9)]


def test_vectors_are_opened_for_the_same_data_and_model_only(tmp_path: Path) -> None:
    table = np.eye(4, dtype=np.float32)
    right = fingerprint_of_table("data", table)
    built = build_vectors(tmp_path / "v", [[0], [1, 2], [3]], table, right)
    kept = open_vectors(tmp_path / "v", right)
    assert isinstance(kept, Vectors) and kept.nearest([1], 3) == built.nearest([1], 3)
    assert right not in (
        fingerprint_of_table("more", table),
        fingerprint_of_table("data", 2 * table),
    )
    assert open_vectors(tmp_path / "v", "other") is None
    (tmp_path / "v" / "codes.npy").write_bytes(b"")
    assert open_vectors(tmp_path / "v", right) is None
    empty = build_vectors(tmp_path / "none", [], table, right)
    assert empty.nearest([1], 3) == []


def test_the_server_offers_both_views_and_keeps_them(tmp_path: Path, chat_model: ChatModel) -> None:
    data = tmp_path / "conversas.jsonl"
    asked = ("Onde mora a raposa?", "Quem come mel?", "O navio chegou?")
    rows = [f'{{"instruction": "{one}", "output": "Sobre isso, nada {one}"}}' for one in asked]
    data.write_text("\n".join(rows), encoding="utf-8")
    sources = sources_of([tmp_path], [data])
    assert sources is not None
    lookup = Lookup(sources, chat_model)
    lookup.start()
    lookup.wait(60)
    with running([chat_model], lookup=lookup) as server:
        _check_views(server)
    kept = tmp_path / ".search" / "vectors" / "codes.npy"
    before = kept.stat().st_mtime_ns
    again = Lookup(sources, chat_model)
    again.start()
    again.wait(60)
    assert again.ready is not None and again.ready.view is not None
    assert kept.stat().st_mtime_ns == before


def _check_views(server: Running) -> None:
    _, found, _ = server.ask("/api/quotes", {"text": "Sobre isso, nada Quem come mel?"})
    assert found["vectors_of"] == "tiny"
    assert found["similar"][0]["number"] == 1
    assert found["similar"][0]["cosine"] > 0.8 > found["similar"][1]["cosine"]
    _, listed, _ = server.ask("/api/examples", {"query": "navio", "view": "vectors", "limit": 3})
    assert listed["examples"][0]["number"] == 2 and len(listed["examples"]) == 3
    status, answer, _ = server.ask("/api/examples", {"query": "a", "view": "stars"})
    assert (status, answer["error"]["param"]) == (400, "view")


def test_without_a_model_there_are_words_alone(tmp_path: Path) -> None:
    data = tmp_path / "conversas.jsonl"
    data.write_text('{"instruction": "Oi?", "output": "Olá."}', encoding="utf-8")
    sources = sources_of([tmp_path], [data])
    assert sources is not None
    lookup = Lookup(sources)
    lookup.start()
    lookup.wait(30)
    assert lookup.ready is not None
    found = lookup.ready.quotes({"text": "Olá"})
    assert (found["vectors_of"], found["similar"]) == (None, [])
