"""`LanguageFilter`: language identification, offline.

py3langid ships its model in its wheel (4.5 MB) and separates Galician from Portuguese best of the
small models. It sees three excerpts of a text, about 1 kB in all: under 1 ms a document, where the
whole text costs far more for the same answer. No small model separates Brazil from Portugal. A
fastText model file (GlotLID, lid.176) can be used instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.languages.identification import Py3langid
from teenytinyllama.stages.corpus.batches import DocumentBatch, ProseFilter, StepConfig
from teenytinyllama.stages.corpus.filters.language_data import load_language

LANGUAGE = "language"
"""Reason of a text in another language."""
EXCERPT_CHARACTERS = 400
NUM_EXCERPTS = 3

Identify = Callable[[Sequence[str]], list[float]]


class LanguageFilter(ProseFilter):
    """Drops documents whose probability of their source's language is too low."""

    family = "language"

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        self._model = self.settings.filters.language_model
        data = load_language(self.language)
        self._labels = data.labels
        kind = "py3langid" if self._model == "py3langid" else "fasttext"
        self.min_probability = data.min_language_probability.get(kind, 0.5)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Probability of the source's language for each text."""
        return language_probabilities(texts, self.language, self._model, self._labels)

    def apply(self, batch: DocumentBatch) -> None:
        """Drop and score."""
        remaining = batch.remaining()
        found = self.probabilities([one.text for one in remaining])
        for one, probability in zip(remaining, found, strict=True):
            one.document.scores[LANGUAGE] = round(probability, 4)
            if probability < self.min_probability:
                batch.drop(one, LANGUAGE)


def sample(text: str) -> str:
    """Excerpts from the first, middle and last third of a text; a short text as a whole.

    Heads and tails of documents are menus, licences and code more often than the rest.

    >>> len(sample("abc " * 10_000))
    1202
    """
    if len(text) <= NUM_EXCERPTS * EXCERPT_CHARACTERS:
        return text
    middles = [len(text) * (2 * k + 1) // (2 * NUM_EXCERPTS) for k in range(NUM_EXCERPTS)]
    half = EXCERPT_CHARACTERS // 2
    return "\n".join(text[middle - half : middle + half] for middle in middles)


def language_probabilities(
    texts: Sequence[str], language: str, model: str, labels: frozenset[str]
) -> list[float]:
    """Probability, 0 to 1, that each text is in the language.

    `model` is `py3langid` or the path of a fastText model; `labels` are the names that such a
    model may have for the language.
    """
    return _identifier(language, model, labels)([sample(text) for text in texts])


@lru_cache(maxsize=8)
def _identifier(language: str, model: str, labels: frozenset[str]) -> Identify:
    """One model per process and language."""
    if model == "py3langid":
        return Py3langid(language).probabilities
    return _fasttext(Path(model), labels)


def _fasttext(path: Path, labels: frozenset[str]) -> Identify:
    try:
        import fasttext
    except ImportError as error:
        raise missing_extra("fasttext", "glotlid") from error
    if not path.is_file():
        raise UserError(
            "language-model-missing",
            str(path),
            "corpus.filters.language_model names a file that is not there",
            'download GlotLID (cis-lmu/glotlid on the Hub), or language_model = "py3langid"',
        )
    model: Any = fasttext.load_model(str(path))
    known = labels.intersection(label.removeprefix("__label__") for label in model.get_labels())
    if not known:
        raise UserError(
            "language-unknown",
            str(path),
            f"this model has none of the labels {', '.join(sorted(labels))}",
            "choose a model that knows the language",
        )

    def probability(text: str) -> float:
        line = " ".join(text.split())
        # `f.predict` gives pairs; the module's own `predict` fails under NumPy 2.
        found = model.f.predict(line + "\n", -1, 0.0, "strict")
        return float(sum(p for p, label in found if label.removeprefix("__label__") in known))

    return lambda texts: [probability(text) for text in texts]
