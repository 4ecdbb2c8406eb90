"""A benchmark from a task file of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

from support.benchmark_items import ROWS, vary, write_split
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.task_loading import load_benchmark

DEFINITION = {
    "task": "own",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"reader": "plain"},
}


PLAIN = ROWS["storybook"]


def load_own_task(folder: Path, rows=None, **changes) -> Benchmark:
    """The benchmark of a changed `DEFINITION` (JSON is YAML); None removes a key."""
    config = {k: v for k, v in {**DEFINITION, **changes}.items() if v is not None}
    (folder / "own.yaml").write_text(json.dumps(config))
    write_split(folder, "test", vary(PLAIN, 6) if rows is None else rows)
    return load_benchmark(
        Task(name="own", path=str(folder), definition=str(folder / "own.yaml")),
    )


def prompts(bench: Benchmark) -> list[str]:
    task = bench.harness_task()
    return [task.fewshot_context(item, bench.num_fewshot) for item in task.eval_docs]
