"""The quality classifier, its labels, and what the filter and the selection keep."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings, QualitySettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.datatrove_executors import document_steps
from teenytinyllama.stages.corpus.filters.quality import (
    CLASSIFIER_NAME,
    QualityClassifier,
    read_labels,
    spearman,
)
from teenytinyllama.stages.corpus.readers.sources import read_file
from teenytinyllama.stages.corpus.steps import DocumentProcessor

TEACHES = [
    "porque",
    "assim",
    "a",
    "célula",
    "divide",
    "energia",
    "quando",
    "explica",
    "exemplo",
    "logo",
    "causa",
    "efeito",
]
MENU = [
    "início",
    "menu",
    "clique",
    "aqui",
    "login",
    "carrinho",
    "oferta",
    "rodapé",
    "cookies",
    "aceitar",
    "voltar",
    "topo",
]


def text(share: float, seed: int, words: int = 60) -> str:
    """Words of which this share is of the kind that teaches."""
    rng = random.Random(f"{share} {seed}")
    return " ".join(rng.choice(TEACHES if rng.random() < share else MENU) for _ in range(words))


def labelled(count: int = 60) -> tuple[list[str], list[float]]:
    scores = [float(number % 6) for number in range(count)]
    return [text(score / 5, number) for number, score in enumerate(scores)], scores


def labels_file(folder: Path, count: int = 60) -> Path:
    path = folder / "labels.jsonl"
    rows = zip(*labelled(count), strict=True)
    path.write_text("".join(json.dumps({"text": t, "score": s}) + "\n" for t, s in rows), "utf-8")
    return path


def source_file(folder: Path, name: str, shares: list[float]) -> Path:
    path = folder / f"{name}.jsonl"
    rows = [
        {"id": f"{name}-{n}", "text": text(share, 1000 + n), "source": name, "license": "CC0-1.0"}
        for n, share in enumerate(shares)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_scores_follow_labels_and_are_calibrated() -> None:
    texts, scores = labelled(120)
    model = QualityClassifier.train(texts, scores, "pt")
    found = model.score([text(share, 7, 300) for share in (0.0, 0.5, 1.0)])
    assert found[0] < 0.6 < 2 < found[1] < 3 < 4.4 < found[2] <= 5
    assert model.agreement["labels"] == 120
    assert model.agreement["spearman"] > 0.9
    assert model.agreement["f1"] > 0.9
    for score, row in model.agreement["curve"].items():
        assert abs(row["mean_label"] - int(score)) < 0.5


def test_training_is_exact_and_saved_whole(tmp_path: Path) -> None:
    texts, scores = labelled()
    first = QualityClassifier.train(texts, scores, "pt")
    second = QualityClassifier.train(texts, scores, "pt")
    first.save(tmp_path)
    saved = (tmp_path / CLASSIFIER_NAME).read_bytes()
    second.save(tmp_path)
    assert saved == (tmp_path / CLASSIFIER_NAME).read_bytes()
    seen = [text(0.3, 1), text(0.9, 2, 1000), "", "fora do que viu"]
    again = QualityClassifier.load(tmp_path, "pt").score(seen)
    assert np.array_equal(first.score(seen), again)


def test_score_does_not_depend_on_the_batch_or_on_the_length() -> None:
    model = QualityClassifier.train(*labelled(), "pt")
    texts = [text(n / 9, n, 50 + 90 * n) for n in range(10)]
    together = model.score(texts)
    assert together.tolist() == [float(model.score([one])[0]) for one in texts]
    # Four times the same windows: the mean over them is the same.
    window = text(0.6, 3, 100)
    assert model.score([" ".join([window] * 4)])[0] == pytest.approx(
        model.score([window])[0], abs=0.1
    )


def test_agreement_is_of_labels_not_trained_on() -> None:
    """Words of their own for each text: all of them are fitted, nothing can be predicted."""
    rng = random.Random(0)
    scores = [float(rng.randrange(6)) for _ in range(100)]
    texts = [" ".join(f"palavra{n}x{k}" for k in range(60)) for n in range(100)]
    model = QualityClassifier.train(texts, scores, "pt")
    assert abs(model.agreement["spearman"]) < 0.35


def test_spearman_gives_ties_the_middle_rank() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5).
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([10.0, 30, 20, 40])) == 0.9487
    assert spearman(np.array([1.0, 2, 3]), np.ones(3)) is None


def test_layouts_of_published_labels(tmp_path: Path) -> None:
    jql = tmp_path / "jql.jsonl"
    row = {"document": "um texto", "ratings": [3, 4, 4]}
    jql.write_text("".join(json.dumps({**row, "ratings": [n % 5, 4]}) + "\n" for n in range(30)))
    settings = QualitySettings(labels_path=str(jql), text_column="document", score_column="ratings")
    texts, scores = read_labels(settings)
    assert (texts[0], scores[:3]) == ("um texto", [2.0, 2.5, 3.0])
    table = tmp_path / "labels.csv"
    table.write_text("text,score\n" + "".join(f"texto {n},{n % 4}\n" for n in range(30)))
    assert read_labels(QualitySettings(labels_path=str(table)))[1][:3] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "a", "score": 3}\n' * 10, "10 labels, expected 20 or more"),
        ('{"text": "a", "score": 3}\n' * 30, "all labels are 3, expected different ones"),
        ('{"text": "a", "score": 9}\n' * 30, r"labels\.jsonl:1 - no text and score .*score 9"),
        ('{"text": "a"}\n' * 30, r"labels\.jsonl:1 - no text and score"),
        ('{"text": "a", "score": []}\n' * 30, r"labels\.jsonl:1 - no text and score"),
        ('{"text": "a", "score": 1}\nnonsense\n', r"labels\.jsonl:2 - not JSON"),
    ],
)
def test_unusable_labels_are_one_error(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(lines)
    with pytest.raises(UserError, match=message):
        read_labels(QualitySettings(labels_path=str(path)))


def settings_for(folder: Path, **quality: object) -> dict:
    given = {"labels_path": str(labels_file(folder)), **quality}
    return {"families": [], "quality_classifier": given}


def test_cuts_by_score_and_by_share_of_each_source(tmp_path: Path, stage: Callable) -> None:
    good = source_file(tmp_path, "bom", [0.8, 0.9, 1.0, 0.85] * 5)
    mixed = source_file(tmp_path, "misto", [0.0, 1.0] * 10)
    poor = source_file(tmp_path, "pobre", [0.0, 0.1, 0.2, 0.3] * 5)
    filters = settings_for(
        tmp_path, min_score=2.5, by_source={"pobre": {"kept_fraction": 0.25}, "bom": {}}
    )
    left = stage(good, mixed, poor, filters=filters, near_duplicates=None)
    table = left.metrics["quality"]["sources"]
    assert {name: table[name]["documents_kept"] for name in ("bom", "misto")} == {
        "bom": 20, "misto": 10
    }  # fmt: skip
    assert 0.25 <= table["pobre"]["bytes_kept_fraction"] < 0.25 + 1.2 / 20  # whole documents
    lost = 20 - table["pobre"]["documents_kept"]
    assert left.counts["filtered_by_reason"] == {"quality-score": 10, "quality-share": lost}
    assert table["misto"]["bytes_kept_fraction"] == pytest.approx(0.5, abs=0.1)
    assert sum(table["pobre"]["documents_by_score"]) == 20
    best = {row["scores"]["quality"] for row in left.rows("train-*") if row["source"] == "pobre"}
    worse = {row["scores"]["quality"] for row in left.rows("dropped/quality-share/*")}
    assert min(best) >= max(worse)
    assert left.metrics["quality"]["labels"] == 60
    assert (left.folder / CLASSIFIER_NAME).is_file()


def test_without_a_cut_scores_are_written_and_nothing_dropped(
    tmp_path: Path, stage: Callable
) -> None:
    left = stage(
        source_file(tmp_path, "misto", [0.0, 1.0] * 10),
        filters=settings_for(tmp_path),
        near_duplicates=None,
    )
    assert left.counts["documents_kept"] == 20
    assert all("quality" in row["scores"] for row in left.rows("train-*"))


def test_clean_sample_stands_in_for_labels(tmp_path: Path, stage: Callable) -> None:
    clean = tmp_path / "clean.txt"
    clean.write_text("\n\n".join(text(1.0, n, 300) for n in range(60)), "utf-8")
    filters = {"families": [], "quality_classifier": {"clean_path": str(clean)}}
    left = stage(
        source_file(tmp_path, "misto", [0.0, 0.1, 0.2, 0.9] * 10),
        filters=filters,
        near_duplicates=None,
    )
    scores = {
        int(row["id"].split("-")[1]) % 4: row["scores"]["quality"]
        for row in left.rows("*.jsonl.zst")
    }
    assert scores[3] > max(scores[0], scores[1], scores[2])
    short = {**filters, "quality_classifier": {"clean_path": str(tmp_path / "short.txt")}}
    (tmp_path / "short.txt").write_text("Uma frase.\n")
    with pytest.raises(UserError, match="1 documents in the clean sample, expected 20"):
        stage(source_file(tmp_path, "misto", [0.0] * 30), filters=short, out="b")


def test_cut_that_keeps_nothing_says_what_would(tmp_path: Path, stage: Callable) -> None:
    poor = source_file(tmp_path, "pobre", [0.0, 0.1, 0.2, 0.3] * 5)
    with pytest.raises(UserError, match=r"none of 20 documents .*min_score = [\d.]+ keeps half"):
        stage(poor, filters=settings_for(tmp_path, min_score=5.0))
    unknown = settings_for(tmp_path, by_source={"pobres": {"min_score": 1.0}})
    with pytest.raises(UserError, match=r'by_source\.pobres .*"pobre"'):
        stage(poor, filters=unknown, out="b")


def test_workers_and_executors_decide_as_one_process(tmp_path: Path, stage: Callable) -> None:
    path = source_file(tmp_path, "misto", [n / 200 for n in range(200)])
    filters = settings_for(tmp_path, min_score=2.0)
    alone = stage(path, filters=filters, near_duplicates=None)
    # What an executor does: train from the recipe, send the steps to a task, take a file through.
    settings = CorpusSettings(
        sources=(Source(kind="files", path=str(path), license="CC0-1.0"),),
        filters=FilterSettings.model_validate_json(json.dumps(filters)),
        min_document_bytes=0,
    )
    block = pickle.loads(pickle.dumps(document_steps(settings, "pt", tmp_path / "out")))
    batches = read_file(block.files[0], block.config, Counter())
    processor = DocumentProcessor(block.config)
    decided = {one.document.id: one for raw in batches for one in processor.apply(raw).documents}
    kept = alone.rows("*-*.jsonl.zst")
    assert {name for name, one in decided.items() if not one.reason} == {row["id"] for row in kept}
    assert all(decided[row["id"]].quality == row["scores"]["quality"] for row in kept)
    assert 50 < len(kept) < 150
