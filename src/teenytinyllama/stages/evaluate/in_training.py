"""Scores while a model is still being trained: a few items of each task, in its log.

The command line hands this to the training as a function, so that neither stage knows the other.
The model in hand is scored as it stands, in fp32; nothing is saved, loaded or kept. How the
whole tasks went, for every permanent checkpoint, is the evaluate stage's to say afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from teenytinyllama.settings.post_training import EvaluateSettings
from teenytinyllama.stages.evaluate import task_runner
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.scored_models import LoadedModel, context_length_of
from teenytinyllama.stages.evaluate.suites import load_benchmarks
from teenytinyllama.stages.interface import ScoreModel


def scorer(settings: EvaluateSettings, language: str) -> ScoreModel:
    """The function that scores a model on `items_during_training` items of each task.

    Tasks are read now: a fault in one is said before the first step. Its figures are
    `<task>_accuracy`, each over the same items every time. A cloze task, made from held-out text,
    is left out: that text has its own figure in the log.
    """
    groups = task_runner.group(
        [
            _few(one, settings.items_during_training)
            for one in load_benchmarks(settings.tasks, language)
        ]
    )

    def score(model: Any, tokenizer_dir: Path) -> dict[str, float]:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        length = context_length_of(model, tokenizer)
        loaded = LoadedModel("pretrain", model, tokenizer, {}, length)
        device = next(model.parameters()).device.type
        metrics = {}
        with torch.autocast(device, enabled=False):
            for group in groups:
                results = task_runner.score_tasks(
                    loaded, group, batch_tokens=settings.batch_tokens, log_dir=None
                )
                for benchmark, result in zip(group, results, strict=True):
                    metrics[f"{benchmark.name}_accuracy"] = float(result["accuracy"])
        return metrics

    return score


def _few(benchmark: Benchmark, num_items: int) -> Benchmark:
    """The benchmark with items from all over its scored split; solved examples stay enough."""
    count = len(benchmark.scored_items)
    wanted = max(num_items, benchmark.num_fewshot + 1)
    if wanted < count:
        benchmark.keep_items([number * count // wanted for number in range(wanted)])
    return benchmark
