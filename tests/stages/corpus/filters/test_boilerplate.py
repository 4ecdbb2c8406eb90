"""Boilerplate is learned per source, and removed from that source only."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpus_stage import Stage, json_lines

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    RawItem,
    StepConfig,
)
from teenytinyllama.stages.corpus.filters import boilerplate
from teenytinyllama.stages.corpus.filters.boilerplate import BoilerplateRemoval, LineCounter
from teenytinyllama.stages.corpus.steps import apply_steps
from teenytinyllama.stages.corpus.text_cleaning import EmptyText


def learn(texts: list[str], fraction: float) -> frozenset[str]:
    counter = LineCounter()
    for text in texts:
        counter.add(text)
    return counter.boilerplate(fraction)


def test_frequent_lines_are_removed_and_rare_ones_stay() -> None:
    menu = "Início | Notícias | Contato"
    texts = [f"  {menu}\nTexto número {n}.\nAssine já!" for n in range(20)]
    texts[0] = "Texto sem menu.\nOutra linha."
    found = learn(texts, 0.5)
    assert found == {menu, "Assine já!"}
    source = Source(kind="files", path="-")
    settings = CorpusSettings(sources=(source,))
    config = StepConfig(settings, "pt", {"site": found})
    documents = [
        BatchDocument(RawItem("", 1, 0, b""), document=Document("", text, name, ""))
        for text, name in ((texts[0], "site"), (texts[1], "site"), (menu, "site"), (menu, "livro"))
    ]
    batch = DocumentBatch(source, "", documents)
    apply_steps([BoilerplateRemoval(config), EmptyText(config)], batch)
    assert [(one.reason, one.text) for one in documents] == [
        ("", texts[0]),
        ("", "Texto número 1."),
        ("empty", ""),
        ("", menu),
    ]
    assert batch.notes == {"boilerplate-lines-cut": 3}


def test_a_small_source_has_no_boilerplate() -> None:
    assert learn(["a mesma linha"] * 10, 0.1) == frozenset()
    assert learn(["a mesma linha"] * 11, 0.1) == {"a mesma linha"}


MENU = "Início | Notícias"


def test_menu_is_removed_from_its_source_only(stage: Stage, tmp_path: Path) -> None:
    pages = [f"{MENU}\nA notícia número {n} fala do rio {n * 7}.\nMenu" for n in range(30)]
    (tmp_path / "site.jsonl").write_bytes(json_lines(*pages))
    story = f"Na tela lia-se:\n{MENU}\nE nada mais."
    (tmp_path / "livro.jsonl").write_bytes(json_lines(story, "Outro conto, bem curto."))
    filters = {"families": [], "max_boilerplate_fraction": 0.5}
    sources = (tmp_path / "site.jsonl", tmp_path / "livro.jsonl")
    plain = {"near_duplicates": None, "repeated_paragraphs": None}
    left = stage(*sources, filters=filters, out="a", **plain)
    found = set(left.texts())
    assert found == {f"A notícia número {n} fala do rio {n * 7}." for n in range(30)} | {
        story,
        "Outro conto, bem curto.",
    }
    assert left.counts["notes"]["boilerplate-lines-cut"] == 60
    assert set(stage(*sources, out="b", **plain).texts()) == {
        *pages,
        story,
        "Outro conto, bem curto.",
    }


def test_memory_is_bounded_and_the_menu_still_found(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    bound = boilerplate.forget_rare_lines

    def watched(counters: dict[str, LineCounter]) -> None:
        bound(counters)
        held.append(sum(len(counter.documents_with) for counter in counters.values()))

    monkeypatch.setattr(boilerplate, "MAX_LINES", 5)
    monkeypatch.setattr(boilerplate, "forget_rare_lines", watched)
    (tmp_path / "site").mkdir()
    for n in range(30):
        page = f"{MENU}\nA notícia número {n} fala do rio {n * 7}.\nMais {n}\n"
        (tmp_path / "site" / f"{n:02d}.txt").write_text(page, encoding="utf-8")
    left = stage(
        tmp_path / "site",
        source={"name": "site"},
        filters={"families": [], "max_boilerplate_fraction": 0.5},
        near_duplicates=None,
    )
    assert max(held) <= 7
    assert left.counts["notes"]["boilerplate-lines-cut"] == 30
    assert not any(MENU in text for text in left.texts())
