"""`GopherRepetitionFilter`, `FineWebQualityFilter` and `GopherQualityFilter`.

The rules are defined in `heuristic_rules.py`, and measured in `text_statistics.py` for all three
filters at once: the first that runs on a batch measures it, the other two read the same arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.batches import DocumentBatch, ProseFilter, StepConfig, Values
from teenytinyllama.stages.corpus.filters.heuristic_rules import RULES
from teenytinyllama.stages.corpus.filters.language_data import language_data, load_language
from teenytinyllama.stages.corpus.filters.text_statistics import measure_batch
from teenytinyllama.stages.corpus.filters.word_table import WordRule, read_words

CHARACTERS_PER_SLICE = 1 << 19
"""Texts are measured together up to this many characters: the arrays stay in the cache."""

_RULES = {rule.reason: rule for rule in RULES}
_ALWAYS_SCORED = (
    "gopher_short_doc",
    "gopher_below_avg_threshold",
    "gopher_below_alpha_threshold",
    "top_2_gram",
    "line_punct_ratio",
)


@dataclass(frozen=True)
class RuleMeasure:
    """Measures texts by every rule that is on. Equal for the three filters of a recipe."""

    words: WordRule
    language: str
    thresholds: tuple[tuple[str, float], ...]
    stop_words: frozenset[str]

    def __call__(self, texts: Sequence[str]) -> dict[str, Values]:
        """One array per reason, one number per text; no text is empty."""
        slices = []
        for part in _slices(texts):
            words = read_words(part, self.words, self.language)
            slices.append(measure_batch(part, words, dict(self.thresholds), self.stop_words))
        return {name: np.concatenate([part[name] for part in slices]) for name in slices[0]}


def _slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, cut where the characters of a slice are used up."""
    start, left = 0, CHARACTERS_PER_SLICE
    for place, text in enumerate(texts):
        if place > start and len(text) > left:
            yield texts[start:place]
            start, left = place, CHARACTERS_PER_SLICE
        left -= len(text)
    yield texts[start:]


class RuleFilter(ProseFilter):
    """Drops a document by the first rule of its family that it breaks, and writes scores."""

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        filters = self.settings.filters
        thresholds = thresholds_for(filters, self.language)
        stop_words = language_data(filters, self.language).stop_words
        self._measure = RuleMeasure(
            filters.words, self.language, tuple(thresholds.items()), stop_words
        )
        self._scored = [name for name in _ALWAYS_SCORED if name in thresholds]
        self._thresholds = _of_family(thresholds, self.family)
        self._is_last = list(thresholds)[-1] in self._thresholds

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """Whether a rule of the family is on. Raises UserError for rules that do not exist."""
        thresholds = thresholds_for(config.settings.filters, config.language)
        return bool(_of_family(thresholds, cls.family))

    def apply(self, batch: DocumentBatch) -> None:
        """Drop and score: scores are written at a drop, and by the last of the three filters."""
        remaining, names = batch.remaining(), list(self._thresholds)
        values = batch.measure(self._measure, {*names, *self._scored})
        fails = np.stack(
            [_RULES[name].drops(values[name], self._thresholds[name]) for name in names]
        )
        first_failed = fails.argmax(axis=0).tolist()
        is_dropped: list[bool] = np.any(fails, axis=0).tolist()
        places = range(len(remaining)) if self._is_last else np.flatnonzero(is_dropped).tolist()
        for place in places:
            one, scored = remaining[place], self._scored
            if is_dropped[place]:
                reason = names[first_failed[place]]
                batch.drop(one, reason)
                scored = [*scored, reason]
            one.document.scores |= {name: round(values[name].item(place), 4) for name in scored}


class GopherRepetitionFilter(RuleFilter):
    """Repeated lines, paragraphs and word n-grams (Rae et al. 2021, table A1)."""

    family = "repetition"


class FineWebQualityFilter(RuleFilter):
    """Lines without end marks, repeated characters, lists (Penedo et al. 2024)."""

    family = "fineweb"


class GopherQualityFilter(RuleFilter):
    """Length, word length, symbols, bullets, letters, stop words (Rae et al. 2021, A1.1)."""

    family = "quality"


def _of_family(thresholds: dict[str, float], family: str) -> dict[str, float]:
    return {name: value for name, value in thresholds.items() if _RULES[name].family == family}


def thresholds_for(settings: FilterSettings, language: str) -> dict[str, float]:
    """Threshold of every rule that is on, by reason, in the order of `RULES`.

    Raises UserError for a name that no rule has, and where rules are wanted but neither the
    language nor the recipe has a threshold for any of them.
    """
    known_numbers = load_language(language).thresholds.get(settings.words, {})
    chosen = known_numbers | settings.thresholds
    counting = {rule.family for rule in RULES}.intersection(settings.families)
    if not chosen and counting:
        raise UserError(
            "language-without-filters",
            f"languages/{language}/filters.toml",
            f'no thresholds for the language "{language}" and words = "{settings.words}"',
            f"`ttl new --language {language} --clean-sample CLEAN.txt` learns them from clean text",
        )
    for name in (*chosen, *settings.without):
        if name not in _RULES:
            raise UserError(
                "filter-unknown",
                "corpus.filters",
                f'no rule has the name "{name}"',
                did_you_mean(name, _RULES),
            )
    return {
        rule.reason: float(chosen[rule.reason])
        for rule in RULES
        if rule.reason in chosen
        and rule.reason not in settings.without
        and rule.family in settings.families
    }
