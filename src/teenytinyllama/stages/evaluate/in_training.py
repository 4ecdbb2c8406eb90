"""Scores on a few items of each task while a model is training, for the training log.

The model is scored in fp32 as it is in memory; nothing is saved, loaded or cached. The runner
hands `scorer` to the training stage, so that neither stage imports the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.settings.post_training import EvaluateSettings
from teenytinyllama.stages.evaluate import task_runner
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.scored_models import ScoredModel, context_length_of
from teenytinyllama.stages.evaluate.suites import load_benchmarks
from teenytinyllama.stages.interface import ScoreModel


def scorer(
    settings: EvaluateSettings, language: str, processes: ProcessGroup = ALONE
) -> ScoreModel:
    """The function that scores a model on `items_during_training` items of each task.

    Tasks are read now, so that an error in one is reported before the first step. The metrics are
    `<task>_accuracy`, over the same items every time. A cloze task, which is made from held-out
    text, is left out: the log has that text's bits per byte.
    """
    tasks = tuple(task for task in settings.tasks if task.kind != "cloze")
    groups = task_runner.group_tasks(
        [
            _subsample(benchmark, settings.items_during_training)
            for benchmark in load_benchmarks(tasks, language)
        ]
    )

    def score(model: Any, tokenizer_dir: Path) -> dict[str, float]:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        length = context_length_of(model, tokenizer)
        scored = ScoredModel("pretrain", model, tokenizer, {}, length)
        device = next(model.parameters()).device.type
        metrics = {}
        with torch.autocast(device, enabled=False):
            for group in groups:
                results = task_runner.score_tasks(
                    scored,
                    group,
                    batch_tokens=settings.batch_tokens,
                    cache_dir=None,
                    processes=processes,
                )
                for benchmark, result in zip(group, results, strict=True):
                    metrics[f"{benchmark.name}_accuracy"] = float(result["accuracy"])
        return metrics

    return score


def _subsample(benchmark: Benchmark, num_items: int) -> Benchmark:
    """Keep evenly spaced items of the scored split, enough to draw few-shot examples from."""
    count = len(benchmark.scored_items)
    wanted = max(num_items, benchmark.num_fewshot + 1)
    if wanted < count:
        benchmark.keep_items([number * count // wanted for number in range(wanted)])
    return benchmark
