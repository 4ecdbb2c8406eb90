"""ROOM finetune: base model to classifiers.

In reading order: `room` (the run), `labelled` (texts and labels in), `encoding` (ids and
batches), `models` (what is trained), `training` (one training), `measures` (scores and
yardsticks), `classify` (a finished classifier on new files).
"""

from teenytinyllama.stages.finetune.stage import run

__all__ = ["run"]
