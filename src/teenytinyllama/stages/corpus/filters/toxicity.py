"""`ToxicityFilter`: windows of sentences, each scored by a classifier.

Classifiers learn from comments of one or two lines. Given a whole chapter they flag a third of any
novel, so each document is scored window by window, the scores of its worst and of its mean window
are written, and the threshold is a quantile of the same score on clean text, not one half. Two
kinds of classifier: any sequence-classification model (a corpus needs a GPU: BERT reads 2 kB/s on a
CPU core), and the one of `toxicity_classifier.py`, trained from labelled lines in seconds, for a
CPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from teenytinyllama.errors import UserError
from teenytinyllama.languages import sentence_ends
from teenytinyllama.languages.segmentation import has_spaces_between_words, separate_words
from teenytinyllama.settings.data_preparation import ToxicitySettings
from teenytinyllama.stages.corpus.batches import DocumentBatch, ProseFilter, StepConfig
from teenytinyllama.stages.corpus.filters.calibration import read_clean

TOXICITY = "toxicity"
"""Reason of a toxic text."""
Scores = npt.NDArray[np.float64]
MAX_CLEAN_DOCUMENTS = 2000
"""Clean documents that are scored for the threshold, evenly over the file."""


@cache
def _sentence_break() -> re.Pattern[str]:
    return re.compile(rf"(?<=[{sentence_ends()}])[\"'”’»)]*\s+|(?<=[。！？])|\n+")


class ToxicityFilter(ProseFilter):
    """Scores every document that is left, and drops those above the threshold, if there is one."""

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """Whether the recipe has a table `toxicity`."""
        return config.settings.filters.toxicity is not None

    def apply(self, batch: DocumentBatch) -> None:
        """Drop and score."""
        settings = self.settings.filters.toxicity
        assert settings is not None
        scorer, remaining = load_scorer(settings, self.language), batch.remaining()
        found = scorer.score([one.text for one in remaining])
        for one, score in zip(remaining, found, strict=True):
            one.document.scores["toxicity_max"] = round(score[0], 4)
            one.document.scores["toxicity_mean"] = round(score[1], 4)
            if scorer.max_toxicity is not None and scorer.counted(score) > scorer.max_toxicity:
                batch.drop(one, TOXICITY)


class WindowClassifier(Protocol):
    """Scores short texts; higher is more toxic."""

    def score(self, windows: Sequence[str]) -> Scores:
        """One number per window."""
        ...


def windows_of(text: str, window_words: int) -> list[str]:
    """Whole sentences, joined until a window has enough words; none is twice as long.

    >>> windows_of("Sim. Vou agora mesmo! E você, vem? Não.", 3)
    ['Sim. Vou agora mesmo!', 'E você, vem?', 'Não.']
    >>> windows_of("我们去市场。你去北京吗？", 4)
    ['我们去市场。', '你去北京吗？']
    """
    windows: list[str] = []
    pending: list[str] = []
    space = " " if has_spaces_between_words(text) else ""
    for sentence in _sentence_break().split(text):
        pending.extend(separate_words(sentence).split())
        while len(pending) >= 2 * window_words:
            windows.append(space.join(pending[:window_words]))
            pending = pending[window_words:]
        if len(pending) >= window_words:
            windows.append(space.join(pending))
            pending = []
    if pending:
        windows.append(space.join(pending))
    return windows


class ToxicityScorer:
    """The toxicity of documents by the recipe's classifier, and the threshold."""

    def __init__(self, settings: ToxicitySettings, language: str) -> None:
        self.settings = settings
        self._classifier = _load_classifier(settings, language)
        self.max_toxicity = settings.max_toxicity
        if self.max_toxicity is None and settings.clean_path:
            self.max_toxicity = threshold_at(
                self.clean_scores(), settings.max_clean_dropped_fraction
            )

    def score(self, texts: Sequence[str]) -> list[tuple[float, float]]:
        """Per document the score of its worst window, and the mean of all its windows."""
        windows = [windows_of(text, self.settings.window_words) for text in texts]
        flat = [window for group in windows for window in group]
        values = self._classifier.score(flat)
        found: list[tuple[float, float]] = []
        start = 0
        for group in windows:
            part = values[start : start + len(group)]
            start += len(group)
            found.append((float(part.max()), float(part.mean())) if len(part) else (0.0, 0.0))
        return found

    def counted(self, score: tuple[float, float]) -> float:
        """The one of the two scores that the recipe compares with the threshold."""
        return score[0] if self.settings.over == "max" else score[1]

    def clean_scores(self) -> Scores:
        """Scores of the recipe's clean text, ascending."""
        documents = read_clean(Path(self.settings.clean_path))
        step = max(1, len(documents) // MAX_CLEAN_DOCUMENTS)
        return np.sort([self.counted(score) for score in self.score(documents[::step])])


CURVE = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Shares of the clean text for which the curve shows the threshold."""


def show_curve(scorer: ToxicityScorer, identity_sentences: Sequence[str]) -> str:
    """Thresholds by the share of clean text they drop, and the scores of harmless sentences.

    A sentence above the threshold is marked: the classifier has learned the name of a group.
    """
    settings, scores = scorer.settings, scorer.clean_scores()
    chosen = threshold_at(scores, settings.max_clean_dropped_fraction)
    lines = [f"# Toxicity ({settings.over} over windows) of {len(scores)} clean documents."]
    lines += [
        f"# drops {share:6.1%} of them: above {threshold_at(scores, share):.4f}" for share in CURVE
    ]
    single = scorer.score(identity_sentences)
    for sentence, score in zip(identity_sentences, single, strict=True):
        mark = "ABOVE" if score[0] > chosen else "     "
        lines.append(f"# {score[0]:8.4f} {mark} {sentence}")
    lines += ["[corpus.filters.toxicity]", f"max_toxicity = {chosen:.4f}"]
    return "\n".join(lines)


def threshold_at(clean_scores: Scores, dropped_fraction: float) -> float:
    """The lowest score that at most this share of the clean documents exceeds.

    >>> threshold_at(np.arange(100.0), 0.05)
    94.0
    """
    above = int(dropped_fraction * len(clean_scores) + 1e-9)
    return float(clean_scores[len(clean_scores) - 1 - above])


@lru_cache(maxsize=2)
def load_scorer(settings: ToxicitySettings, language: str) -> ToxicityScorer:
    """One per process: loading, or training, takes seconds."""
    return ToxicityScorer(settings, language)


def _load_classifier(settings: ToxicitySettings, language: str) -> WindowClassifier:
    if settings.model.endswith(".jsonl"):
        from teenytinyllama.stages.corpus.filters.toxicity_classifier import (
            LineClassifier,
            read_labelled,
        )

        texts, labels = read_labelled(Path(settings.model))
        return LineClassifier.train(texts, labels, language)
    return ModelClassifier(settings)


class ModelClassifier:
    """Any sequence-classification model, batched, on the GPU where there is one."""

    def __init__(self, settings: ToxicitySettings) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(settings.model, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                settings.model, trust_remote_code=False
            )
        except Exception as error:  # the library's errors share no base class
            reason = (str(error).splitlines() or ["?"])[0]
            raise UserError(
                "toxicity-model-missing",
                settings.model,
                f"this classifier cannot be loaded ({reason})",
                "download it once, or name a folder or labelled lines (.jsonl) as "
                "corpus.filters.toxicity.model",
            ) from error
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self._micro_batch = settings.micro_batch
        config = self._model.config
        self._max_tokens = min(512, getattr(config, "max_position_embeddings", 512))
        self._sign = 1.0 if settings.higher_is_toxic else -1.0
        self._several = config.problem_type == "multi_label_classification"
        labels = {int(index): str(name) for index, name in config.id2label.items()}
        self._label = None if len(labels) == 1 else toxic_label(labels, settings.toxic_label)

    def score(self, windows: Sequence[str]) -> Scores:
        """Probability of the toxic label, or the single output, negated where low is toxic."""
        import torch

        # Windows of similar length share a batch: less padding. Scores keep the order given.
        order = sorted(range(len(windows)), key=lambda place: -len(windows[place]))
        scores = np.zeros(len(windows), dtype=np.float64)
        for start in range(0, len(order), self._micro_batch):
            places = order[start : start + self._micro_batch]
            batch = self._tokenizer(
                [windows[place] for place in places],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                logits = self._model(**batch).logits.float().cpu()  # (windows, labels)
            if self._label is None:
                values = self._sign * logits[:, 0]
            elif self._several:
                values = logits.sigmoid()[:, self._label]
            else:
                values = logits.softmax(dim=-1)[:, self._label]
            scores[places] = values.double().numpy()
        return scores


def toxic_label(labels: dict[int, str], asked: str) -> int:
    """Index of the toxic output. Raises UserError where the labels' names are ambiguous.

    >>> toxic_label({0: "non-toxic", 1: "toxic"}, ""), toxic_label({0: "LABEL_0", 1: "LABEL_1"}, "")
    (1, 1)
    """
    by_name = {name: index for index, name in labels.items()}
    if asked in by_name:
        return by_name[asked]
    named = [
        index
        for index, name in labels.items()
        if re.search(r"tox|t[oó]xic|hate|ofens|offens", name.lower())
        and not re.match(r"non|not|n[aã]o|no[_ -]", name.lower())
    ]
    if not asked and len(named) == 1:
        return named[0]
    if not asked and labels == {0: "LABEL_0", 1: "LABEL_1"}:
        return 1
    raise UserError(
        "toxicity-label",
        "corpus.filters.toxicity.toxic_label",
        f'"{asked}" is none of the model\'s labels, or their names do not say which is toxic',
        f"toxic_label = one of: {', '.join(labels.values())}",
    )
