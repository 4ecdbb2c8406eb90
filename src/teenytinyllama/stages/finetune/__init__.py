"""STAGE finetune: base model to classifiers.

In reading order: `stage` (the run), `labelled` (texts and labels in), `encoding` (ids and
batches), `models` (what is trained), `training` (one training), `measures` (scores and
baselines), `classify` (a finished classifier on new files).
"""

from teenytinyllama.stages.finetune.stage import run

__all__ = ["run"]
