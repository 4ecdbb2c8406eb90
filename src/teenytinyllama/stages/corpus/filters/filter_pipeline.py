"""All filters of a recipe, in order, on batches of texts: keep, or drop with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from teenytinyllama.settings.data_preparation import FilterSettings, ToxicitySettings
from teenytinyllama.stages.corpus.filters.c4_filter import Boilerplate, apply_c4
from teenytinyllama.stages.corpus.filters.heuristic_rules import EMPTY, LANGUAGE, RULES, TOXICITY
from teenytinyllama.stages.corpus.filters.language_filter import language_probabilities
from teenytinyllama.stages.corpus.filters.text_statistics import measure_batch
from teenytinyllama.stages.corpus.filters.thresholds import language_data, thresholds_for
from teenytinyllama.stages.corpus.filters.url_filter import judge_address
from teenytinyllama.stages.corpus.filters.word_table import read_words

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
    """The filters of a recipe for one language. Pure and picklable: equal texts, equal verdicts.

    In order: boilerplate lines out, address, language, C4's rules, the rules of `rules.py`,
    and toxicity on what is left.
    """

    def __init__(self, settings: FilterSettings, language: str) -> None:
        self.settings, self.language = settings, language
        self.thresholds = thresholds_for(settings, language)
        self.data = language_data(settings, language)
        self._domains = frozenset(domain.lower() for domain in settings.blocked_domains)
        kind = "py3langid" if settings.language_model == "py3langid" else "fasttext"
        self.min_language = self.data.min_language_probability.get(kind, 0.5)

    def judge(
        self,
        texts: Sequence[str],
        *,
        urls: Sequence[str] | None = None,
        boilerplate: Sequence[Boilerplate | None] | None = None,
    ) -> list[Verdict]:
        """One verdict per text, in order. `boilerplate`: what each text's source repeats."""
        verdicts = [Verdict(None) for _ in texts]
        if boilerplate is not None:
            for text, lines, verdict in zip(texts, boilerplate, verdicts, strict=True):
                verdict.text = lines.clean(text) if lines else None
        for text, verdict in zip(texts, verdicts, strict=True):
            here = text if verdict.text is None else verdict.text
            if not here or here.isspace():
                verdict.reason = EMPTY
        if urls is not None and "address" in self.settings.families:
            for url, verdict in zip(urls, verdicts, strict=True):
                verdict.reason = verdict.reason or judge_address(
                    url, self._domains, self.data.url_words
                )
        self._judge_language(texts, verdicts)
        if self.settings.c4 != "off":
            self._apply_c4(texts, verdicts)
        left = [place for place, verdict in enumerate(verdicts) if verdict.reason is None]
        left = left if self.thresholds else []
        now = [_now(texts[place], verdicts[place]) for place in left]
        for places in _batches(now):
            measured = self._measure([now[place] for place in places])
            for place, (reason, scores) in zip(places, measured, strict=True):
                verdicts[left[place]].reason = reason
                verdicts[left[place]].scores |= scores
        if self.settings.toxicity is not None:
            self._judge_toxicity(texts, verdicts, self.settings.toxicity)
        return verdicts

    def _judge_toxicity(
        self, texts: Sequence[str], verdicts: Sequence[Verdict], settings: ToxicitySettings
    ) -> None:
        from teenytinyllama.stages.corpus.filters.toxicity import (
            load_toxicity,
        )  # torch, transformers

        model = load_toxicity(settings, self.language)
        left = [(t, v) for t, v in zip(texts, verdicts, strict=True) if v.reason is None]
        found = model.score([_now(text, verdict) for text, verdict in left])
        for (_, verdict), score in zip(left, found, strict=True):
            verdict.scores["toxicity_max"] = round(score[0], 4)
            verdict.scores["toxicity_mean"] = round(score[1], 4)
            if model.max_toxicity is not None and model.counted(score) > model.max_toxicity:
                verdict.reason = TOXICITY

    def language_probability(self, text: str) -> float:
        """Probability that the text is in the recipe's language."""
        model, labels = self.settings.language_model, self.data.labels
        return language_probabilities([text], self.language, model, labels)[0]

    def _judge_language(self, texts: Sequence[str], verdicts: Sequence[Verdict]) -> None:
        model = self.settings.language_model
        left = [(t, v) for t, v in zip(texts, verdicts, strict=True) if v.reason is None]
        if "language" not in self.settings.families or not left:
            return
        found = language_probabilities(
            [_now(text, verdict) for text, verdict in left], self.language, model, self.data.labels
        )
        for (_, verdict), probability in zip(left, found, strict=True):
            verdict.scores[LANGUAGE] = round(probability, 4)
            if probability < self.min_language:
                verdict.reason = LANGUAGE

    def _apply_c4(self, texts: Sequence[str], verdicts: Sequence[Verdict]) -> None:
        mode = self.settings.c4
        for text, verdict in zip(texts, verdicts, strict=True):
            if verdict.reason is None and mode != "off":
                before = _now(text, verdict)
                verdict.reason, after = apply_c4(before, self.data, mode)
                if verdict.reason is None and after != before:
                    verdict.text = after

    def _measure(self, texts: Sequence[str]) -> list[tuple[str | None, dict[str, float]]]:
        """Reason and scores by the repetition, line and quality rules; no text is empty."""
        words = read_words(texts, self.settings.words, self.language)
        values = measure_batch(texts, words, self.thresholds, self.data.stop_words)
        names = list(self.thresholds)
        drops = np.zeros((len(names) + 1, len(texts)), dtype=bool)
        drops[-1] = True
        for row, name in enumerate(names):
            value, threshold = values[name], self.thresholds[name]
            drops[row] = value > threshold if _RULES[name].side == "max" else value < threshold
        first = drops.argmax(axis=0).tolist()
        shown = [name for name in _KEPT_SCORES if name in values]
        columns = {name: values[name].tolist() for name in names}
        found: list[tuple[str | None, dict[str, float]]] = []
        for place, row in enumerate(first):
            reason = names[row] if row < len(names) else None
            scored = shown if reason is None or reason in shown else [*shown, reason]
            scores = {name: round(columns[name][place], 4) for name in scored}
            found.append((reason, scores))
        return found


def _now(text: str, verdict: Verdict) -> str:
    """The text as the rules before have left it."""
    return text if verdict.text is None else verdict.text


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Places of texts that are measured together."""
    batch: list[int] = []
    stage = CHARACTERS_PER_BATCH
    for place, text in enumerate(texts):
        if batch and len(text) > stage:
            yield batch
            batch, stage = [], CHARACTERS_PER_BATCH
        batch.append(place)
        stage -= len(text)
    if batch:
        yield batch
