"""Boilerplate of one source leaves its documents and no other source's."""

from pathlib import Path

import pytest
from support.corpus_stage import Stage, json_lines

from teenytinyllama.stages.corpus.filters import boilerplate_learner

MENU = "Início | Notícias"


def test_a_menu_leaves_the_source_that_repeats_it(stage: Stage, tmp_path: Path) -> None:
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


def test_lines_held_are_bounded_and_the_menu_is_still_found(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    whole = boilerplate_learner.BoilerplateLearner.read

    def watched(learner: boilerplate_learner.BoilerplateLearner, *given: object) -> None:
        whole(learner, *given)
        held.append(sum(counter.num_lines for counter in learner._counters.values()))

    monkeypatch.setattr(boilerplate_learner, "MAX_LINES", 5)
    monkeypatch.setattr(boilerplate_learner.BoilerplateLearner, "read", watched)
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
