"""The classifier trained from labelled lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.stages.corpus.filters.toxicity_classifier import LineClassifier, read_labelled

GOOD = ["que dia lindo", "gosto de café com pão", "bom trabalho a todos", "a rua está calma"]


BAD = ["seu besta feio", "que gente besta", "cala a boca besta", "feio e besta demais"]


def labelled(folder: Path) -> Path:
    path = folder / "lines.jsonl"
    rows = [(text, 0) for text in GOOD] + [(text, 1) for text in BAD]
    lines = [json.dumps({"text": text, "toxic": label}) for text, label in rows * 5]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_training_is_deterministic_and_ignores_traces(tmp_path: Path) -> None:
    texts, labels = read_labelled(labelled(tmp_path))
    first = LineClassifier.train(texts, labels, "pt")
    second = LineClassifier.train(texts, labels, "pt")
    seen = ["que besta", "que dia calmo", "@alguem https://t.co/x", ""]
    scores = first.score(seen)
    assert scores[0] > 0.7 > 0.3 > scores[1]
    assert scores[2] == scores[3]  # traces of where a line was written are ignored
    assert np.array_equal(scores, second.score(seen))


def test_unusable_labelled_lines_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl - cannot be read \(.*No such file"):
        read_labelled(tmp_path / "none.jsonl")
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a", "toxic": 0}\n{"text": "b"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2"):
        read_labelled(path)
    path.write_text('{"text": "a", "toxic": 0}\n')
    with pytest.raises(UserError, match="expected both 0 and 1"):
        read_labelled(path)
