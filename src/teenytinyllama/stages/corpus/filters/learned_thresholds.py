"""What `ttl new --clean-sample` learns of a language from text that is known to be clean.

A language without a folder gets from it what a folder holds: thresholds, stop words, letters and
openings; and whether the language can be told at all with what is installed.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters.calibration import calibrate, read_clean, thresholds_now
from teenytinyllama.stages.corpus.filters.heuristic_rules import RULES
from teenytinyllama.stages.corpus.filters.language_filter import language_probabilities
from teenytinyllama.stages.corpus.filters.thresholds import load_language
from teenytinyllama.stages.corpus.filters.word_table import words_of

MIN_DOCUMENTS = 20
"""Fewer than this say nothing of what is rare: about 40 kB of plain text."""
NUM_STOP_WORDS = 16
MAX_STOP_WORDS_WANTED = 2.0
"""Gopher asks for two different stop words; a short text has no more in any language."""
NUM_OPENINGS, WORDS_OF_OPENING = 4, 3
MIN_LETTER_SHARE = 1e-5
"""Letters rarer than this among all letters are of other languages: names, quotations."""
MIN_KNOWN_SHARE = 0.8
"""The language filter is left out where it would keep less of the clean text than this."""
# How long words are is the language's own; shares of repetition and of marks are not, and a small
# sample without a repeated line must not forbid them: there the looser of two numbers is taken.
_OF_THE_LANGUAGE = ("gopher_below_avg_threshold", "gopher_above_avg_threshold")
# The mean of a document strays far: names and numbers in a list, children's tales in a sample.
WORD_LENGTH_SLACK = 1 / 3


@dataclass(frozen=True)
class Learnt:
    """A language as a clean sample shows it."""

    language: str
    num_documents: int
    thresholds: dict[str, float]
    stop_words: tuple[str, ...]
    letters: str
    openings: tuple[str, ...]
    known_fraction: float | None
    """Share of the documents that are told to be in the language; None: it is not known at all."""

    @property
    def can_be_told(self) -> bool:
        """Whether texts of the language can be told from others with py3langid."""
        return self.known_fraction is not None and self.known_fraction >= MIN_KNOWN_SHARE


def learn(path: Path, language: str) -> Learnt:
    """Read a clean sample. Raises UserError where it cannot be read or is too small."""
    documents = [unicodedata.normalize("NFC", text) for text in read_clean(path)]
    if len(documents) < MIN_DOCUMENTS:
        raise UserError(
            "sample-small",
            str(path),
            f"only {len(documents)} documents of text, {MIN_DOCUMENTS} are needed",
            "give some 40 kB of clean text or more, paragraphs set off by empty lines",
        )
    stop_words = frequent_words(documents, language)
    settings = FilterSettings(stop_words=stop_words)
    found = calibrate(documents, settings, language)
    return Learnt(
        language=language,
        num_documents=len(documents),
        thresholds=_loosened(found.thresholds, thresholds_now(language, settings)),
        stop_words=stop_words,
        letters=letters_in(documents),
        openings=_openings(documents),
        known_fraction=known_fraction(documents, language),
    )


def frequent_words(documents: Sequence[str], language: str) -> tuple[str, ...]:
    """Words of letters that stand in most documents, most frequent first.

    >>> frequent_words(["o rato e o gato", "o gato dorme", "e o cão"], "xx")[:3]
    ('o', 'e', 'gato')
    """
    counts: Counter[str] = Counter()
    for text in documents:
        words = {word.lower() for word in words_of(text, "fast", language)}
        counts.update(word for word in words if any(map(str.isalpha, word)))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ranked[:NUM_STOP_WORDS])


def letters_in(documents: Sequence[str]) -> str:
    """Letters and combining marks of the language, in order of their code points.

    >>> letters_in(["Olá, você!"])
    'Oclováê'
    """
    signs = Counter(sign for text in documents for sign in text)
    counts = {c: n for c, n in signs.items() if unicodedata.category(c)[0] in "LM"}
    least = MIN_LETTER_SHARE * sum(counts.values())
    return "".join(sorted(letter for letter, count in counts.items() if count >= least))


def known_fraction(documents: Sequence[str], language: str) -> float | None:
    """Share of the documents that py3langid gives to the language; None: it does not know it."""
    data = load_language(language)
    least = data.min_language_probability.get("py3langid", 0.5)
    try:
        found = language_probabilities(documents, language, "py3langid", data.labels)
    except UserError as error:
        if error.code == "language-unknown":
            return None
        raise
    return sum(probability >= least for probability in found) / len(found)


def _openings(documents: Sequence[str]) -> tuple[str, ...]:
    """How some documents begin, spread over the sample."""
    step = max(1, len(documents) // NUM_OPENINGS)
    chosen = documents[::step][:NUM_OPENINGS]
    return tuple(dict.fromkeys(" ".join(text.split()[:WORDS_OF_OPENING]) for text in chosen))


def _loosened(learnt: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    sides = {rule.reason: rule.side for rule in RULES}
    kept: dict[str, float] = {}
    for reason, value in learnt.items():
        if reason == "gopher_enough_stop_words":
            kept[reason] = min(value, MAX_STOP_WORDS_WANTED)
        elif reason in _OF_THE_LANGUAGE:
            slack = WORD_LENGTH_SLACK if sides[reason] == "max" else -WORD_LENGTH_SLACK
            kept[reason] = round(value * (1 + slack), 1)
        else:
            looser = max if sides[reason] == "max" else min
            kept[reason] = looser(value, reference[reason])
    return kept
