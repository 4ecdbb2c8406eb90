"""Windows, both kinds of classifier, all kinds of head, and the threshold from clean text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings, ToxicitySettings
from teenytinyllama.stages.corpus.filters.toxicity import (
    ToxicityScorer,
    threshold_at,
    toxic_label,
    windows_of,
)
from teenytinyllama.stages.corpus.steps import FilterPipeline

GOOD = ["que dia lindo", "gosto de café com pão", "bom trabalho a todos", "a rua está calma"]


BAD = ["seu besta feio", "que gente besta", "cala a boca besta", "feio e besta demais"]


def labelled(folder: Path) -> Path:
    path = folder / "lines.jsonl"
    rows = [(text, 0) for text in GOOD] + [(text, 1) for text in BAD]
    lines = [json.dumps({"text": text, "toxic": label}) for text, label in rows * 5]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_windows_are_whole_sentences_and_bounded() -> None:
    assert windows_of("Um dois. Três quatro. Cinco", 3) == ["Um dois. Três quatro.", "Cinco"]
    assert windows_of("a b c d e f g", 3) == ["a b c", "d e f g"]
    assert windows_of("linha um\nlinha dois", 2) == ["linha um", "linha dois"]
    assert windows_of("", 3) == []
    text = " ".join(str(n) for n in range(100)) + ". Fim. E mais."
    windows = windows_of(text, 10)
    assert " ".join(windows) == text
    assert max(len(window.split()) for window in windows) < 20


def test_threshold_leaves_the_share_of_clean_text_above_it() -> None:
    scores = np.arange(200.0)
    assert threshold_at(scores, 0.01) == 197.0  # 198 and 199 are above
    assert threshold_at(scores, 0.001) == 199.0  # none is


def test_document_is_dropped_for_its_worst_window(tmp_path: Path) -> None:
    clean = tmp_path / "clean.txt"
    clean.write_text("\n\n".join((text + ". ") * 60 for text in GOOD), encoding="utf-8")
    settings = ToxicitySettings(
        model=str(labelled(tmp_path)), clean_path=str(clean), window_words=5
    )
    filters = FilterPipeline(FilterSettings(families=(), toxicity=settings), "pt")
    calm = "Que dia lindo, gosto de café. " * 20
    mean_only = settings.model_copy(update={"over": "mean"})
    rude = calm + "Cala a boca, seu besta feio!"
    first, second = filters.apply([calm, rude])
    assert (first.reason, second.reason) == (None, "toxicity")
    assert second.scores["toxicity_max"] > 0.8 > second.scores["toxicity_mean"]
    by_mean = ToxicityScorer(mean_only, "pt")
    assert by_mean.counted(by_mean.score([rude])[0]) < 0.5


def test_without_a_threshold_scores_are_written_and_nothing_dropped(tmp_path: Path) -> None:
    settings = ToxicitySettings(model=str(labelled(tmp_path)))
    (result,) = FilterPipeline(FilterSettings(families=(), toxicity=settings), "pt").apply(
        ["seu besta"]
    )
    assert result.reason is None
    assert result.scores["toxicity_max"] > 0.8


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers with one output, and its word list."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["que", "dia", "lindo", "seu", "besta", "a", "b", "c"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    save_bert(folder, {0: "REWARD"}, None)
    return folder


def save_bert(folder: Path, labels: dict[int, str], problem: str | None) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=13, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=len(labels),
        id2label=labels, label2id={name: index for index, name in labels.items()},
        problem_type=problem,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)


WINDOWS = ["que dia lindo", "seu besta", "a b c " * 40, "a"]


def logits_of(folder: Path) -> torch.Tensor:
    """What the model says of each window alone, without padding."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    rows = []
    for window in WINDOWS:
        batch = tokenizer(window, truncation=True, max_length=64, return_tensors="pt")
        rows.append(model(**batch).logits[0])
    return torch.stack(rows).detach()


@pytest.mark.parametrize(
    ("labels", "problem", "asked", "expected"),
    [
        ({0: "REWARD"}, None, {}, lambda x: -x[:, 0]),
        ({0: "SCORE"}, "regression", {"higher_is_toxic": True}, lambda x: x[:, 0]),
        ({0: "LABEL_0", 1: "LABEL_1"}, None, {}, lambda x: x.softmax(-1)[:, 1]),
        ({0: "toxic", 1: "non-toxic"}, None, {}, lambda x: x.softmax(-1)[:, 0]),
        ({0: "insult", 1: "threat"}, "multi_label_classification", {"toxic_label": "threat"},
         lambda x: x.sigmoid()[:, 1]),
    ],
)  # fmt: skip
def test_every_head_gives_a_score_in_which_high_is_toxic(
    bert_dir: Path, labels: dict, problem: str | None, asked: dict, expected
) -> None:
    save_bert(bert_dir, labels, problem)
    settings = ToxicitySettings(model=str(bert_dir), micro_batch=3, **asked)
    found = ToxicityScorer(settings, "pt")._classifier.score(WINDOWS)
    # A batch pads the shorter windows: the same numbers to float32's precision.
    np.testing.assert_allclose(found, expected(logits_of(bert_dir)).numpy(), atol=1e-6)


def test_ambiguous_labels_are_an_error() -> None:
    assert toxic_label({0: "ok", 1: "ódio tóxico"}, "") == 1
    with pytest.raises(UserError, match="toxic_label = one of: positivo, negativo"):
        toxic_label({0: "positivo", 1: "negativo"}, "")
    with pytest.raises(UserError, match='"hate" is none'):
        toxic_label({0: "a", 1: "b"}, "hate")


def test_missing_model_is_an_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="toxicity-model-missing"):
        ToxicityScorer(ToxicitySettings(model=str(tmp_path / "none")), "pt")
