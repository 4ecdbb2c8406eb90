"""`--explain` and `--calibrate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.corpus import inspection
from teenytinyllama.stages.corpus.filters.calibration import read_clean
from teenytinyllama.stages.corpus.filters.hashed_words import BITS
from teenytinyllama.stages.corpus.filters.quality import QualityClassifier
from teenytinyllama.stages.corpus.inspection import rule_results

PROSE = (
    "A chuva parou no fim da tarde e os meninos foram para a rua com uma bola nova.\n"
    "Dona Rosa olhava tudo da janela, enquanto o café esfriava em cima da mesa."
)


def recipe(**filters: object) -> Recipe:
    settings = FilterSettings(**{"families": ("repetition", "fineweb", "quality"), **filters})
    source = Source(kind="storybook")
    return Recipe(name="r", corpus=CorpusSettings(sources=(source,), filters=settings))


def write(folder: Path, stem: str, *documents: Document) -> None:
    with DocumentWriter(folder, stem) as writer:
        for document in documents:
            writer.write(document)


def test_explain_shows_every_rule_and_the_one_that_drops(tmp_path: Path) -> None:
    short = Document("b:2", "Bom dia a todos.", "jornal", "CC0-1.0", url="https://a.br/x")
    write(tmp_path, "train", Document("a:1", PROSE, "livro", "CC0-1.0"))
    write(tmp_path / "dropped" / "gopher_short_doc", "part", short)
    shown = inspection.explain(recipe(thresholds={"gopher_short_doc": 20}), tmp_path, "b:2")
    assert "stored in  dropped/gopher_short_doc" in shown
    assert "drop it: top_2_gram" in shown  # "Bom dia" is 7 of 16 characters
    assert "top_2_gram                         0.4375  <= 0.25    DROPS" in shown
    assert "gopher_short_doc                   4.0000  >= 20      DROPS" in shown
    assert "dup_para_frac                      0.0000  off        -" in shown
    assert "URL        https://a.br/x" in shown
    kept = inspection.explain(recipe(thresholds={"gopher_short_doc": 20}), tmp_path, "a:1")
    assert "stored in  train" in kept
    assert "keep it" in kept
    assert "DROPS" not in kept


def test_explain_decides_by_the_classifier_of_the_corpus(tmp_path: Path) -> None:
    write(tmp_path, "train", Document("a:1", PROSE, "livro", "CC0-1.0", scores={"quality": 1.25}))
    made = recipe(families=(), quality_classifier={"labels_path": "no.jsonl", "min_score": 2.0})
    before = inspection.explain(made, tmp_path, "a:1")
    assert "scores     quality 1.25" in before
    assert "keep it" in before  # the corpus was made without a classifier
    QualityClassifier(np.zeros(1 << BITS, dtype=np.float32), 1.5, "pt", {}).save(tmp_path)
    assert "drop it: quality-score" in inspection.explain(made, tmp_path, "a:1")


def test_explain_of_a_missing_document_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `ttl corpus RECIPE` first"):
        inspection.explain(recipe(), tmp_path, "a:1")
    write(tmp_path, "train", Document("a:1", PROSE, "livro", "CC0-1.0"))
    with pytest.raises(UserError, match=r"no document.*has this id.*ids look like: a:1"):
        inspection.explain(recipe(), tmp_path, "a:9")


def test_rules_are_in_the_order_in_which_they_apply() -> None:
    found = rule_results(PROSE, recipe().corpus, "pt")  # type: ignore[arg-type]
    assert [one.rule.reason for one in found][:3] == [
        "dup_para_frac",
        "dup_para_char_frac",
        "dup_line_frac",
    ]
    assert len(found) == 27


def test_clean_text_is_split_between_paragraphs_and_calibrated(tmp_path: Path) -> None:
    path = tmp_path / "clean.txt"
    path.write_text("\n\n".join([PROSE] * 30), encoding="utf-8")
    documents = read_clean(path)
    assert [len(text.split("\n\n")) for text in documents] == [4, 10, 16]
    shown = inspection.calibrate(recipe(), path)
    assert shown.startswith("# Learned from 3 clean documents")
    assert "[thresholds.fast]" in shown
