"""Evaluate: model to scores.

Bits per byte of held-out documents first, beside a bigram model and two compressors; then tasks,
through lm-evaluation-harness, each with its error, its chance and how much of it stands in the
training text. One JSON per model and task:

    evaluate/base/heldout.json, evaluate/base/<task>.json, evaluate/<other model>/<task>.json
    evaluate/baselines.json, evaluate/overlap.json
"""

from teenytinyllama.stages.evaluate.in_training import scorer
from teenytinyllama.stages.evaluate.stage import run

__all__ = ["run", "scorer"]
