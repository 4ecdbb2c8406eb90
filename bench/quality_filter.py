"""The quality filter against labels given by reading, and its speed.

`quality_labels.json` has 270 excerpts of about 600 characters of a folder of texts (file, document,
place and a score from 0 to 5; the texts themselves are not here). They were read in random order
without their source's name and scored against the rubric in the file, before the filter was
written. Each is predicted by a model of the others: of other folds, and of other sources.

    python bench/quality_filter.py [--texts FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from teenytinyllama.stages.corpus.filters.quality import QualityClassifier, agreement, spearman

LABELS = Path(__file__).with_name("quality_labels.json")
GOAL_SPEARMAN, GOAL_MB_PER_S = 0.5, 2.0
NUM_FOLDS, SEEDS, CUT = 5, (0, 1, 2), 2.5
MB_PER_FILE = 2


def excerpts(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, scores and sources of the labels."""
    wanted: dict[str, dict[str, tuple[int, int, int]]] = defaultdict(dict)
    for name, document, start, end, score in json.loads(LABELS.read_text())["labels"]:
        wanted[name][document] = (start, end, score)
    texts, scores, sources = [], [], []
    for name, documents in wanted.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["id"] in documents:
                    start, end, score = documents[row["id"]]
                    texts.append(row["text"][start:end])
                    scores.append(float(score))
                    sources.append(name)
    return texts, np.array(scores), np.array(sources)


def predictions(texts: list[str], scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each text as a model of all other groups scores it."""
    found = np.zeros(len(texts))
    for group in np.unique(groups):
        others, own = np.flatnonzero(groups != group), np.flatnonzero(groups == group)
        model = QualityClassifier.train([texts[n] for n in others], scores[others].tolist(), "pt")
        found[own] = model.score([texts[n] for n in own])
    return found


def within(predicted: np.ndarray, scores: np.ndarray, sources: np.ndarray) -> dict[str, float]:
    """Spearman by source, where the labels of one differ; 0 where its predictions do not."""
    found = {}
    for name in np.unique(sources):
        own = sources == name
        if np.ptp(scores[own]):
            found[str(name)] = spearman(predicted[own], scores[own]) or 0.0
    return found


def mean_within(found: dict[str, float], sources: np.ndarray) -> float:
    sizes = [int((sources == name).sum()) for name in found]
    return float(np.average(list(found.values()), weights=sizes))


def megabytes_per_second(model: QualityClassifier, folder: Path) -> float:
    """Bytes of text per second of CPU time, over the first 2 MB of each file."""
    num_bytes, seconds = 0, 0.0
    for path in sorted(folder.glob("*.jsonl.gz")):
        texts: list[str] = []
        size = 0
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                texts.append(json.loads(line)["text"])
                size += len(texts[-1].encode())
                if size > MB_PER_FILE * 1e6:
                    break
        started = time.process_time()
        for start in range(0, len(texts), 50):
            model.score(texts[start : start + 50])
        seconds += time.process_time() - started
        num_bytes += size
    return num_bytes / 1e6 / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path("../shared/data/corpus"))
    options = parser.parse_args()
    texts, scores, sources = excerpts(options.texts)
    rows: dict[str, list[float]] = defaultdict(list)
    by_source: dict[str, list[float]] = defaultdict(list)
    for seed in SEEDS:
        groups = np.random.default_rng(seed).permutation(len(texts)) % NUM_FOLDS
        predicted = predictions(texts, scores, groups)
        rows["Spearman"].append(spearman(predicted, scores) or 0.0)
        found = within(predicted, scores, sources)
        for name, value in found.items():
            by_source[name].append(value)
        rows["Spearman, within sources"].append(mean_within(found, sources))
        rows["F1 at 2.5"].append(agreement(predicted, scores, CUT)["f1"] or 0.0)
        means = np.array(
            [
                scores[(sources == source) & (groups != group)].mean()
                for source, group in zip(sources, groups, strict=True)
            ]
        )
        rows["Spearman of the source's mean label alone"].append(spearman(means, scores) or 0.0)
    predicted = predictions(texts, scores, sources)
    rows["Spearman, source not in training"].append(spearman(predicted, scores) or 0.0)
    found = within(predicted, scores, sources)
    rows["Spearman, within sources, not in training"].append(mean_within(found, sources))
    started = time.process_time()
    model = QualityClassifier.train(texts, scores.tolist(), "pt")
    rows["training, CPU s"].append(time.process_time() - started)
    rows["MB/s a core"].append(megabytes_per_second(model, options.texts))
    goals = {
        "Spearman": GOAL_SPEARMAN,
        "Spearman, within sources": GOAL_SPEARMAN,
        "MB/s a core": GOAL_MB_PER_S,
    }
    all_hold = True
    for name, values in rows.items():
        line = {"figure": f"quality filter, {name}", "value": round(float(np.mean(values)), 4)}
        line |= {"spread": round(max(values) - min(values), 4), "unit": f"{len(texts)} labels"}
        if name in goals:
            line |= {"goal": f">= {goals[name]}", "holds": bool(np.mean(values) >= goals[name])}
            all_hold &= line["holds"]
        print(json.dumps(line), flush=True)
    print(json.dumps({name: round(float(np.mean(v)), 2) for name, v in by_source.items()}))
    print(json.dumps(model.agreement))
    return not all_hold


if __name__ == "__main__":
    sys.exit(main())
