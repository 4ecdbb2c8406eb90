"""`QualityFilter` and `QualitySelection`: how much a text teaches, 0 to 5, learned from labels.

A ridge regression over hashed words and pairs of words (`hashed_words.py`): each counts once in a
window of about a hundred words, and the score of a document is the mean over its windows. It is
trained once, before the corpus is read, in seconds on one core, and stays in the stage's folder. It
knows words, not meaning, and what its labels do not show it cannot know: the manifest has what each
source loses.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from teenytinyllama.artifacts.records import read_records
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.data_preparation import CorpusSettings, QualitySettings
from teenytinyllama.stages.corpus.batches import (
    DocumentBatch,
    IndexEntry,
    ProseFilter,
    StepConfig,
)
from teenytinyllama.stages.corpus.filters.boilerplate import usable_documents
from teenytinyllama.stages.corpus.filters.calibration import read_clean
from teenytinyllama.stages.corpus.filters.hashed_words import BITS, words_and_pairs
from teenytinyllama.stages.corpus.filters.word_table import Ints, read_words
from teenytinyllama.stages.corpus.readers.sources import InputFile
from teenytinyllama.stages.corpus.staging import CorpusState, CorpusStep

logger = logging.getLogger(__name__)

SETTING = "corpus.filters.quality_classifier"
QUALITY_SCORE, QUALITY_SHARE = "quality-score", "quality-share"
CLASSIFIER_NAME = "quality_classifier.safetensors"
MAX_SCORE = 5
USUAL_CUT = 2.5
"""Where F1 is measured if the recipe has no `min_score`: FineWeb-Edu's cut, 3 when rounded."""
WINDOW_WORDS = 100
MIN_LABELS, MAX_LABELS, NUM_FOLDS = 20, 20_000, 5
MAX_SAMPLE_DOCUMENTS, MAX_SAMPLE_CHARACTERS = 2000, 4500
"""Of the clean sample, and of the raw text it is compared with; no longer than a clean one."""
RIDGE, MAX_ITERATIONS, TOLERANCE = 0.3, 100, 1e-6
TEXTS_PER_BATCH = 200

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class QualityClassifier:
    """Scores texts; `agreement` is that with labels it was not trained on, for the manifest."""

    weights: npt.NDArray[np.float32]
    bias: float
    language: str
    agreement: dict[str, Any]

    @classmethod
    def train(
        cls, texts: Sequence[str], labels: Sequence[float], language: str, cut: float = USUAL_CUT
    ) -> Self:
        """Fit on all labels. Deterministic: nothing here is summed by several threads.

        Each label is also predicted by a model of the other four fifths, where a text that occurs
        twice is in one of them. These predictions are what the agreement is of, and what the scores
        are calibrated by: the ridge pulls them towards the mean, a line through them and the labels
        undoes it.
        """
        vectors = _vectors(texts, language)
        truth = np.array(labels, dtype=np.float64)
        folds = np.array([_hash(text) % NUM_FOLDS for text in texts])
        predicted = np.zeros(len(truth))
        for fold in range(NUM_FOLDS):
            weights, bias = _fit(vectors, truth, folds != fold)
            unseen = folds == fold
            predicted[unseen] = (_predict(vectors, weights, len(truth)) + bias)[unseen]
        weights, bias = _fit(vectors, truth, np.ones(len(truth), dtype=bool))
        apart, off = predicted - predicted.mean(), truth - truth.mean()
        # Where nothing was learned the line is flat or falls, and is left out.
        slope = max(float((apart * off).sum() / max((apart**2).sum(), 1e-12)), 0.0) or 1.0
        calibrated = truth.mean() + slope * apart
        return cls(
            (slope * weights).astype(np.float32),
            float(truth.mean() + slope * (bias - predicted.mean())),
            language,
            agreement(calibrated, truth, cut),
        )

    def score(self, texts: Sequence[str]) -> Scores:
        """One score, 0 to 5, per text."""
        vectors = _vectors(texts, self.language)
        return np.clip(_predict(vectors, self.weights, len(texts)) + self.bias, 0, MAX_SCORE)

    def save(self, folder: Path) -> None:
        """Write it; the manifest has the hash of every file."""
        bias = np.array([self.bias], dtype=np.float64)
        save_file({"weights": self.weights, "bias": bias}, folder / CLASSIFIER_NAME)

    @classmethod
    def load(cls, folder: Path, language: str) -> Self:
        """What `save` wrote."""
        found = load_file(folder / CLASSIFIER_NAME)
        return cls(found["weights"], float(found["bias"][0]), language, {})


@dataclass(frozen=True)
class _Vectors:
    """Rows of features: entry k says that text `rows[k]` has `features[k]`, with `values[k]`."""

    rows: Ints
    features: Ints
    values: Scores


def _vectors(texts: Sequence[str], language: str) -> _Vectors:
    """The mean over the windows of each text, where each window has length one."""
    parts: list[_Vectors] = []
    for start in range(0, max(len(texts), 1), TEXTS_PER_BATCH):
        batch = texts[start : start + TEXTS_PER_BATCH]
        words = read_words([text.lower() for text in batch], "fast", language)
        counts = words.counts()
        windows = np.maximum(counts // WINDOW_WORDS, 1)
        before = np.cumsum(windows) - windows
        texts_of = words.documents
        places = np.arange(len(texts_of)) - words.first[texts_of]
        owners, features = words_and_pairs(
            before[texts_of] + places * windows[texts_of] // counts[texts_of], words.hashes
        )
        keys = np.sort((owners << BITS) | features)
        once = keys[np.diff(keys, prepend=-1) > 0]  # np.unique takes ten times as long
        owners, features = once >> BITS, once & ((1 << BITS) - 1)
        rows = np.repeat(np.arange(len(batch)), windows)[owners]
        values = 1 / (np.sqrt(np.bincount(owners))[owners] * windows[rows])
        parts.append(_Vectors(rows + start, features, values))
    return _Vectors(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("rows", "features", "values")
        )
    )


def _predict(vectors: _Vectors, weights: npt.NDArray[Any], num_texts: int) -> Scores:
    per_entry = weights[vectors.features] * vectors.values
    return np.bincount(vectors.rows, per_entry, minlength=num_texts).astype(np.float64, copy=False)


def _fit(vectors: _Vectors, truth: Scores, used: npt.NDArray[np.bool_]) -> tuple[Scores, float]:
    """Weights and bias of a ridge regression on the texts `used`, by conjugate gradients."""

    def transposed(errors: Scores) -> Scores:
        per_entry = (errors * used)[vectors.rows] * vectors.values
        sums = np.bincount(vectors.features, per_entry, minlength=1 << BITS)
        return sums.astype(np.float64, copy=False)

    bias = float(truth[used].mean())
    weights = np.zeros(1 << BITS)
    residual = transposed(truth - bias)
    direction, size = residual.copy(), (residual**2).sum()
    smallest = TOLERANCE**2 * size
    for _ in range(MAX_ITERATIONS):
        if size <= smallest:
            break
        image = transposed(_predict(vectors, direction, len(truth))) + RIDGE * direction
        step = size / (direction * image).sum()
        weights += step * direction
        residual -= step * image
        previous, size = size, (residual**2).sum()
        direction = residual + size / previous * direction
    return weights, bias


def agreement(predicted: Scores, labels: Scores, cut: float) -> dict[str, Any]:
    """Spearman's correlation, F1 of what is at least `cut`, and the mean label by predicted score.

    >>> found = agreement(np.array([0.2, 3.4, 2.9, 4.4]), np.array([0.0, 3.0, 4.0, 5.0]), 3.0)
    >>> found["spearman"], found["f1"], found["curve"]["3"]
    (0.8, 0.8, {'labels': 2, 'mean_label': 3.5})
    """
    right = int(((predicted >= cut) & (labels >= cut)).sum())
    chosen, good = int((predicted >= cut).sum()), int((labels >= cut).sum())
    nearest = np.clip(np.rint(predicted), 0, MAX_SCORE).astype(int)
    return {
        "labels": len(labels),
        "spearman": spearman(predicted, labels),
        "cut": cut,
        "f1": round(2 * right / (chosen + good), 4) if chosen + good else None,
        "curve": {
            str(score): {
                "labels": int((nearest == score).sum()),
                "mean_label": round(float(labels[nearest == score].mean()), 3),
            }
            for score in np.unique(nearest)
        },
    }


def spearman(first: Scores, second: Scores) -> float | None:
    """Correlation of ranks, ties in the middle; None where all of one are equal."""
    ranks: list[Scores] = []
    for values in (first, second):
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[places])
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 4)


def learn_quality(
    settings: CorpusSettings, language: str, files: Sequence[InputFile]
) -> QualityClassifier | None:
    """The recipe's classifier, trained; None where it asks for none."""
    wanted = settings.filters.quality_classifier
    if wanted is None:
        return None
    if wanted.labels_path:
        texts, labels = read_labels(wanted)
    else:
        texts, labels = _clean_and_raw(wanted, settings, language, files)
    cut = USUAL_CUT if wanted.min_score is None else wanted.min_score
    classifier = QualityClassifier.train(texts, labels, language, cut)
    found = classifier.agreement
    logger.info(
        f"corpus: quality learned from {found['labels']:,} labels; on labels it had not seen: "
        f"Spearman {found['spearman']}, F1 {found['f1']} at {cut:g}"
    )
    return classifier


def read_labels(settings: QualitySettings) -> tuple[list[str], list[float]]:
    """Texts and scores of the file of labels. Raises UserError where they cannot be used."""
    texts: list[str] = []
    labels: list[float] = []
    path = user_path(settings.labels_path)
    for record in islice(read_records(path), MAX_LABELS):
        try:
            text, given = record.fields[settings.text_column], record.fields[settings.score_column]
            score = fmean(map(float, given if isinstance(given, list) else [given]))
            if not 0 <= score <= MAX_SCORE:
                raise ValueError(f"score {score:g}")
        except (ValueError, KeyError, TypeError) as error:
            columns = f"{settings.text_column} and {settings.score_column}"
            what = record.error or f"no {columns} from 0 to {MAX_SCORE} ({error})"
            raise _unusable(record.place, what) from error
        texts.append(str(text))
        labels.append(score)
    if len(texts) < MIN_LABELS:
        raise _unusable(str(path), f"{len(texts)} labels, expected {MIN_LABELS} or more")
    if len(set(labels)) == 1:
        raise _unusable(str(path), f"all labels are {labels[0]:g}, expected different ones")
    return texts, labels


def _unusable(where: str, what: str) -> UserError:
    return UserError(
        "quality-labels",
        where,
        what,
        'give lines like {"text": "...", "score": 3} with scores of all kinds, or name the columns '
        "as text_column and score_column",
    )


def _clean_and_raw(
    wanted: QualitySettings, settings: CorpusSettings, language: str, files: Sequence[InputFile]
) -> tuple[list[str], list[float]]:
    """The clean sample, each 5, and the first documents of each file, each 0."""
    clean = read_clean(user_path(wanted.clean_path))
    clean = clean[:: -(-len(clean) // MAX_SAMPLE_DOCUMENTS)]
    config, per_file = StepConfig(settings, language), -(-MAX_SAMPLE_DOCUMENTS // len(files))
    raw = [
        one.text[:MAX_SAMPLE_CHARACTERS]
        for file in files
        for one in islice(usable_documents(file, config), per_file)
    ]
    for name, found in (("clean sample", clean), ("raw text", raw)):
        if len(found) < MIN_LABELS:
            raise UserError(
                "quality-sample-small",
                f"{SETTING}.clean_path",
                f"{len(found)} documents in the {name}, expected {MIN_LABELS} or more",
                "give 40 kB of clean text or more, or labels_path",
            )
    return clean + raw, [float(MAX_SCORE)] * len(clean) + [0.0] * len(raw)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:8], "big")


class QualityFilter(ProseFilter):
    """Scores every document that is left, and drops those below their source's `min_score`."""

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        self._classifier = config.quality

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """Whether there is a classifier."""
        return config.quality is not None

    def apply(self, batch: DocumentBatch) -> None:
        """Score and drop."""
        wanted, remaining = self.settings.filters.quality_classifier, batch.remaining()
        assert wanted is not None
        assert self._classifier is not None
        scores = self._classifier.score([one.text for one in remaining])
        for one, score in zip(remaining, scores.round(3).tolist(), strict=True):
            one.document.scores["quality"] = one.quality = score
            least = wanted.cut_for(one.document.source).min_score
            if least is not None and score < least:
                batch.drop(one, QUALITY_SCORE)


class QualitySelection(CorpusStep):
    """Keeps the best `kept_fraction` of each source's text, and counts what each source loses."""

    needs_all_documents = True

    def __init__(self, state: CorpusState) -> None:
        super().__init__(state)
        self._scores = array("d")

    @classmethod
    def is_wanted(cls, settings: CorpusSettings) -> bool:
        """Whether the recipe has a table `quality_classifier`."""
        return settings.filters.quality_classifier is not None

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """Note the scores; conversations have none."""
        self._scores.extend(np.nan if one.quality is None else one.quality for one in entries)

    def decide(self) -> None:
        """Drop, count, and show. Raises UserError where nothing is kept."""
        index, wanted = self.state.index, self.state.settings.filters.quality_classifier
        assert wanted is not None
        for name in wanted.by_source:
            if name not in index.source_names.names:
                raise UserError(
                    "quality-unknown-source",
                    f"{SETTING}.by_source.{name}",
                    "no document has a source of this name",
                    did_you_mean(name, index.source_names.names),
                )
        ours = ("", QUALITY_SCORE, QUALITY_SHARE)  # no duplicates, nor what other filters dropped
        rows_of: defaultdict[str, list[int]] = defaultdict(list)
        for row, score in enumerate(self._scores):
            if not np.isnan(score) and index.reason(row) in ours:
                rows_of[index.source(row)].append(row)
        for source, rows in rows_of.items():
            share = wanted.cut_for(source).kept_fraction
            if share is not None:
                self._keep_best([row for row in rows if not index.reasons[row]], share)
        table = {source: self._counts(rows_of[source]) for source in sorted(rows_of)}
        self.state.metrics.setdefault("quality", {})["sources"] = table
        logger.info("\n".join(_lines(table)))
        if table and not any(row["documents_kept"] for row in table.values()):
            scores = sorted(self._scores[row] for rows in rows_of.values() for row in rows)
            raise UserError(
                "quality-keeps-nothing",
                f"{SETTING}.min_score",
                f"none of {len(scores)} documents has the score asked for: the best is "
                f"{scores[-1]:g}, the middle one {scores[len(scores) // 2]:g}",
                f"min_score = {scores[len(scores) // 2]:g} keeps half of them or more",
            )

    def _keep_best(self, rows: list[int], share: float) -> None:
        index = self.state.index
        rows.sort(key=lambda row: (-self._scores[row], index.digest(row)))
        left = share * sum(index.num_bytes[row] for row in rows)
        for row in rows:
            if left <= 0:
                index.drop(row, QUALITY_SHARE)
            left -= index.num_bytes[row]

    def _counts(self, rows: list[int]) -> dict[str, Any]:
        index = self.state.index
        kept = [row for row in rows if not index.reasons[row]]
        scores = np.array([self._scores[row] for row in rows])
        read, remains = (sum(index.num_bytes[row] for row in some) for some in (rows, kept))
        return {
            "documents": len(rows),
            "documents_kept": len(kept),
            "bytes": read,
            "bytes_kept": remains,
            "bytes_kept_fraction": round(remains / read, 4),
            "mean_score": round(float(scores.mean()), 3),
            "documents_by_score": np.bincount(
                np.rint(scores).astype(int), minlength=MAX_SCORE + 1
            ).tolist(),
        }


def _lines(table: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "corpus: quality, and what is kept of each source"
    for source, row in sorted(table.items(), key=lambda item: item[1]["bytes_kept_fraction"]):
        yield (
            f"  {source[:26]:<26} {row['documents_kept']:>9,} of {row['documents']:>9,} documents, "
            f"{100 * row['bytes_kept_fraction']:5.1f} % of the text, mean {row['mean_score']:.2f}"
        )
