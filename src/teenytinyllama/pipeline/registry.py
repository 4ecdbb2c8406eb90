"""Which stages there are, in pipeline order. What each reads and is, its package declares."""

from __future__ import annotations

from teenytinyllama.stages import (
    align,
    corpus,
    evaluate,
    finetune,
    pack,
    pretrain,
    quantize,
    report,
    tokenizer,
)
from teenytinyllama.stages.interface import Stage

STAGES: tuple[Stage, ...] = (
    corpus.STAGE,
    tokenizer.STAGE,
    pack.STAGE,
    pretrain.STAGE,
    evaluate.STAGE,
    finetune.STAGE,
    align.STAGE,
    quantize.STAGE,
    report.STAGE,
)
BY_NAME = {stage.name: stage for stage in STAGES}
