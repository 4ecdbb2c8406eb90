"""Which language a text is in, offline.

py3langid carries its model in its wheel (4.5 MB) and tells Galician from Portuguese best of the
small ones. It reads three pieces of the text, about 1 kB in all: under 1 ms a document, where the
whole text costs far more for the same answer. No small model tells Brazil from Portugal. A
fastText model file (GlotLID, lid.176) can take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError, missing_extra

PIECE_CHARACTERS = 400
PIECES = 3

Identify = Callable[[str], float]


def sample(text: str) -> str:
    """Pieces from the first, middle and last third of a text; a short text whole.

    Heads and tails of documents are menus, licences and code more often than the rest.

    >>> len(sample("abc " * 10_000))
    1202
    """
    if len(text) <= PIECES * PIECE_CHARACTERS:
        return text
    middles = [len(text) * (2 * k + 1) // (2 * PIECES) for k in range(PIECES)]
    half = PIECE_CHARACTERS // 2
    return "\n".join(text[middle - half : middle + half] for middle in middles)


def language_probabilities(
    texts: Sequence[str], language: str, model: str, labels: frozenset[str]
) -> list[float]:
    """Probability, 0 to 1, that each text is in the language.

    `model` is `py3langid` or the path of a fastText model; `labels` are the names that such a
    model may have for the language.
    """
    probability = _identifier(language, model, labels)
    return [probability(sample(text)) for text in texts]


@lru_cache(maxsize=2)
def _identifier(language: str, model: str, labels: frozenset[str]) -> Identify:
    """One model per process."""
    return _py3langid(language) if model == "py3langid" else _fasttext(Path(model), labels)


def _py3langid(language: str) -> Identify:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise missing_extra("py3langid", "corpus") from error
    identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if language not in identifier.labels:
        raise UserError(
            "language-unknown",
            "corpus.filters.language_model",
            f'py3langid does not know the language "{language}"',
            'language_model = the path of a GlotLID model, or leave "language" out of families',
        )

    def probability(text: str) -> float:
        best, confidence = identifier.classify(text)
        # Below one half another language may be first; only then the whole ranking is needed.
        if best == language:
            return float(confidence)
        return float(dict(identifier.rank(text))[language])

    return probability


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

    return probability
