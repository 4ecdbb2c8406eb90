"""Language identification with py3langid's model, which its wheel holds: offline, 4.5 MB."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from teenytinyllama.errors import UserError, missing_extra

TEXTS_PER_SCAN = 256
"""Texts that advance through the automaton together."""


class Py3langid:
    """py3langid's model on many texts at once: its probabilities at several times its speed.

    The library runs an automaton over the bytes of one text in a Python loop. Here a batch of
    texts advances by one byte in each step.
    """

    def __init__(self, language: str) -> None:
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise missing_extra("py3langid", "corpus") from error
        model: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        if language not in model.labels:
            raise UserError(
                "language-unknown",
                "corpus.filters.language_model",
                f'py3langid does not know the language "{language}"',
                'language_model = the path of a GlotLID model, or leave "language" out of families',
            )
        rows = np.asarray(model.tk_row, dtype=np.int32) << 8
        moves = np.asarray(model.tk_nextmove)
        self._start = int(rows[0])
        self._next_row = rows[moves]
        self._feature = np.asarray(model.tk_output, dtype=np.int32)[moves]
        self._weights = np.asarray(model.nb_ptc, dtype=np.float32)
        self._prior = np.asarray(model.nb_pc)
        self._labels = [str(label) for label in model.nb_classes]
        self._ours = np.flatnonzero([label == language for label in self._labels])

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Probability of the language for each text."""
        return [float(one[self._ours].sum() / one.sum()) for one in self._odds(texts)]

    def likeliest(self, texts: Sequence[str]) -> list[str]:
        """The likeliest language of each text."""
        return [self._labels[int(one.argmax())] for one in self._odds(texts)]

    def _odds(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Of each text the odds of every language, in the order of the model's."""
        encoded = [_encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda place: -len(encoded[place]))
        found: list[npt.NDArray[Any]] = [np.empty(0)] * len(texts)
        for start in range(0, len(order), TEXTS_PER_SCAN):
            places = order[start : start + TEXTS_PER_SCAN]
            features = self._scan([encoded[place] for place in places])
            for place, row in zip(places, features, strict=True):
                found[place] = self._odds_of(row[row >= 0], len(encoded[place]))
        return found

    def _scan(self, texts: Sequence[bytes]) -> npt.NDArray[np.int32]:
        """The feature after each byte of each text, -1 for none; longest text first."""
        lengths = np.array([len(text) for text in texts])
        longest = int(lengths[0])
        padded = b"".join(text.ljust(longest, b"\0") for text in texts)
        table = np.frombuffer(padded, dtype=np.uint8).reshape(len(texts), longest)
        steps = np.ascontiguousarray(table.T)  # (bytes, texts)
        under_way = np.searchsorted(-lengths, -np.arange(longest), side="left").tolist()
        moves = np.zeros((longest, len(texts)), dtype=np.int32)
        row = np.full(len(texts), self._start, dtype=np.int32)
        for step, count in enumerate(under_way):
            now = moves[step, :count]
            np.add(row[:count], steps[step, :count], out=now)
            np.take(self._next_row, now, out=row[:count], mode="clip")
        features = self._feature[moves]
        features[np.arange(longest)[:, None] >= lengths] = -1
        return np.ascontiguousarray(features.T)

    def _odds_of(self, features: npt.NDArray[np.int32], num_bytes: int) -> npt.NDArray[Any]:
        if not len(features):
            return np.ones(len(self._prior))
        kinds, times = np.unique(features, return_counts=True)
        scores = np.log1p(times.astype(np.float32)) @ self._weights[kinds] + self._prior
        scores *= 1.0 / math.sqrt(num_bytes)  # as the library does, so that lengths compare
        odds: npt.NDArray[Any] = np.exp(scores - scores.max())
        return odds


def _encode(text: str) -> bytes:
    """Bytes as py3langid reads them."""
    text = text.lower() if text.isupper() else text
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
