"""A toxicity classifier for one CPU core, trained offline from labelled lines.

Logistic regression over hashed words and pairs of words, each weighted by how much more often it
occurs in toxic lines (Wang and Manning 2012). Fits 15,000 lines in seconds. It knows words, not
meaning: it is for dropping the worst, with a threshold taken from clean text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from teenytinyllama.artifacts.records import read_records
from teenytinyllama.errors import UserError
from teenytinyllama.stages.corpus.filters.hashed_words import BITS, words_and_pairs
from teenytinyllama.stages.corpus.filters.word_table import Ints, read_words

NUM_STEPS, LEARNING_RATE, WEIGHT_DECAY = 120, 0.5, 1e-5
# Traces of where a line was written; they say nothing of its content.
_TRACES = re.compile(r"https?://\S*|@\w+|\brt\b", re.IGNORECASE)

Weights = npt.NDArray[np.float64]


def read_labelled(path: Path) -> tuple[list[str], list[int]]:
    """Texts and labels of a `.jsonl` with `text` and `toxic`. Raises UserError where it is none."""
    texts: list[str] = []
    labels: list[int] = []
    for record in read_records(path):
        try:
            texts.append(str(record.fields["text"]))
            labels.append(int(record.fields["toxic"]))
        except (ValueError, KeyError, TypeError) as error:
            what = record.error or f"no object with text and toxic ({error})"
            raise _unusable(record.place, what) from error
    if set(labels) != {0, 1}:
        raise _unusable(str(path), f"labels {sorted(set(labels))}, expected both 0 and 1")
    return texts, labels


def _unusable(where: str, what: str) -> UserError:
    return UserError(
        "toxicity-lines", where, what, 'lines like {"text": "...", "toxic": 0}, both labels'
    )


class LineClassifier:
    """Probability that a short text is toxic, by its words."""

    def __init__(self, weights: Weights, bias: float, language: str) -> None:
        self._weights, self._bias, self._language = weights, bias, language

    @classmethod
    def train(cls, texts: Sequence[str], labels: Sequence[int], language: str) -> Self:
        """Fit on labelled lines. Deterministic."""
        rows, features = _features(texts, language)
        truth = np.array(labels, dtype=np.float64)
        toxic = truth[rows] == 1
        size = 1 << BITS
        in_toxic = np.bincount(features[toxic], minlength=size) + 1.0
        in_others = np.bincount(features[~toxic], minlength=size) + 1.0
        ratios = np.log(in_toxic / in_toxic.sum()) - np.log(in_others / in_others.sum())
        lengths = np.maximum(np.bincount(rows, minlength=len(texts)), 1)
        values = ratios[features] / np.sqrt(lengths)[rows]
        weights, bias = np.zeros(size), 0.0
        squares = np.full(size, 1e-8)
        for _ in range(NUM_STEPS):
            logits = np.bincount(rows, weights[features] * values, minlength=len(texts)) + bias
            error = 1 / (1 + np.exp(-logits)) - truth
            slope = np.bincount(features, error[rows] * values, minlength=size) / len(texts)
            slope += WEIGHT_DECAY * weights
            squares += slope**2
            weights -= LEARNING_RATE * slope / np.sqrt(squares)
            bias -= LEARNING_RATE * float(error.mean())
        return cls(weights * ratios, bias, language)

    def score(self, windows: Sequence[str]) -> Weights:
        """Probability, 0 to 1, per text."""
        if not windows:
            return np.zeros(0)
        rows, features = _features(windows, self._language)
        lengths = np.maximum(np.bincount(rows, minlength=len(windows)), 1)
        sums = np.bincount(rows, self._weights[features], minlength=len(windows))
        scores: Weights = 1 / (1 + np.exp(-(sums / np.sqrt(lengths) + self._bias)))
        return scores


def _features(texts: Sequence[str], language: str) -> tuple[Ints, Ints]:
    """The text and the feature of every word and of every pair of neighbours."""
    words = read_words([_TRACES.sub(" ", text).lower() for text in texts], "fast", language)
    kept = np.flatnonzero(words.solid)
    return words_and_pairs(words.documents[kept], words.hashes[kept])
