"""STAGE align: base model to chat model.

In reading order: `stage` (the run), `intake` (conversations in), `packing` (rows), `answers`
(what the model says to unseen questions).
"""

from teenytinyllama.stages.align.stage import run

__all__ = ["run"]
