"""All filters of a recipe, in order, on batches of texts: keep, or drop with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from teenytinyllama.recipe import FilterSettings
from teenytinyllama.stages.corpus.filters.measures import measure_batch
from teenytinyllama.stages.corpus.filters.rules import EMPTY, RULES
from teenytinyllama.stages.corpus.filters.thresholds import load_language, thresholds_for
from teenytinyllama.stages.corpus.filters.words import read_words

CHARACTERS_PER_BATCH = 1 << 19
"""Texts are measured together up to this many characters: the arrays stay in the cache."""

_RULES = {rule.reason: rule for rule in RULES}
_KEPT_SCORES = (
    "gopher_short_doc",
    "gopher_below_avg_threshold",
    "gopher_below_alpha_threshold",
    "top_2_gram",
    "line_punct_ratio",
)


@dataclass(slots=True)
class Verdict:
    """What the chain says of one text.

    `reason`: None to keep it, else the rule that drops it; `scores`: numbers by rule, the
    reason's own among them; `text`: the text to go on with where lines were taken out.
    """

    reason: str | None
    scores: dict[str, float] = field(default_factory=dict)
    text: str | None = None


class Chain:
    """The filters of a recipe for one language. Pure and picklable: equal texts, equal verdicts."""

    def __init__(self, settings: FilterSettings, language: str) -> None:
        self.settings, self.language = settings, language
        self.thresholds = thresholds_for(settings, language)
        self.stop_words = load_language(language).stop_words

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """One verdict per text, in order."""
        verdicts: list[Verdict | None] = [
            Verdict(EMPTY) if not text or text.isspace() else None for text in texts
        ]
        filled = [place for place, verdict in enumerate(verdicts) if verdict is None]
        for places in _batches(texts, filled):
            batch = [texts[place] for place in places]
            for place, verdict in zip(places, self._measure(batch), strict=True):
                verdicts[place] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def _measure(self, texts: Sequence[str]) -> list[Verdict]:
        """Repetition, line and quality rules on texts that are not empty."""
        words = read_words(texts, self.settings.words, self.language)
        values = measure_batch(texts, words, self.thresholds, self.stop_words)
        names = list(self.thresholds)
        drops = np.zeros((len(names) + 1, len(texts)), dtype=bool)
        drops[-1] = True
        for row, name in enumerate(names):
            value, threshold = values[name], self.thresholds[name]
            drops[row] = value > threshold if _RULES[name].side == "max" else value < threshold
        first = drops.argmax(axis=0).tolist()
        shown = [name for name in _KEPT_SCORES if name in values]
        columns = {name: values[name].tolist() for name in names}
        verdicts = []
        for place, row in enumerate(first):
            reason = names[row] if row < len(names) else None
            scored = shown if reason is None or reason in shown else [*shown, reason]
            scores = {name: round(columns[name][place], 4) for name in scored}
            verdicts.append(Verdict(reason, scores))
        return verdicts


def _batches(texts: Sequence[str], places: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts that are measured together."""
    batch: list[int] = []
    room = CHARACTERS_PER_BATCH
    for place in places:
        if batch and len(texts[place]) > room:
            yield batch
            batch, room = [], CHARACTERS_PER_BATCH
        batch.append(place)
        room -= len(texts[place])
    if batch:
        yield batch
