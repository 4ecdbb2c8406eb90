"""Turns a recipe's task into a benchmark with checked items, or says in one line why it cannot.

A task is a YAML file in lm-evaluation-harness's format (ours are in `tasks/`; a recipe may name
another), so prompts, few-shot examples and metrics are the harness's. Items are read by us: an
error names file and line, and local files need neither the Hub nor a cache.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.dataset_loading import PlacedRows, TaskItem, open_split
from teenytinyllama.stages.evaluate.right_choice import FROM_ZERO, seems_from_one
from teenytinyllama.stages.evaluate.task_sandbox import read_definition
from teenytinyllama.stages.evaluate.task_validation import check_definition, check_items
from teenytinyllama.stages.evaluate.tasks.process_docs import READERS

logger = logging.getLogger(__name__)

SPLIT_KEYS = ("test_split", "validation_split", "training_split", "fewshot_split")


def load_benchmark(
    task: Task,
    overrides: dict[str, Any] | None = None,
    *,
    language: str = "pt",
    generated: list[TaskItem] | None = None,
) -> Benchmark:
    """The benchmark of a recipe's task: definition read, items read, every prompt rendered.

    `overrides` replace keys of the definition (a suite's number of examples); `generated` are the
    items of a cloze task. Raises UserError naming file and line for anything wrong.
    """
    config = read_definition(task)
    for key, value in (overrides or {}).items():
        known = config.get(key)
        config[key] = {**known, **value} if isinstance(known, dict) else value
    config["task"] = task.name
    _check_types(task.name, config)
    reader = (config.get("metadata") or {}).get("reader", "plain")
    if not isinstance(reader, str) or reader not in READERS:
        what = f'metadata.reader "{reader}" is unknown'
        raise UserError("task-reader", task.name, what, did_you_mean(str(reader), READERS))
    split = config.get("test_split") or config.get("validation_split")
    if split is None:
        what = "names neither test_split nor validation_split"
        raise UserError("task-no-split", task.name, what, "add test_split to the task file")
    config["test_split"] = split
    benchmark = Benchmark(task.name, config, split)
    check_definition(benchmark)
    examples = _fewshot_split(config, split)
    for name in dict.fromkeys((split, examples or split)):
        rows, origin = open_split(task, config, name, language, generated)
        _add_split(benchmark, name, READERS[reader], rows, origin)
    _set_fewshot_split(benchmark, examples)
    check_items(benchmark)
    return benchmark


def _check_types(name: str, config: dict[str, Any]) -> None:
    """Raise UserError for a key of another type, which is read before the harness looks at it."""
    own = config.get("fewshot_config")
    splits = {key: config.get(key) for key in SPLIT_KEYS}
    splits["fewshot_config.split"] = own.get("split") if isinstance(own, dict) else None
    kinds = {key: (value, str, "text") for key, value in splits.items()} | {
        key: (config.get(key), dict, "keys and values") for key in ("metadata", "fewshot_config")
    }
    for key, (value, kind, expected) in kinds.items():
        if value is not None and not isinstance(value, kind):
            what = f"{key} is {value!r:.60}, expected {expected}"
            raise UserError("task-key", f"task {name}", what, f"correct {key} in the task file")


def _fewshot_split(config: dict[str, Any], split: str) -> str | None:
    """The split that few-shot examples are drawn from; None where none is needed."""
    own = config.get("fewshot_config") or {}
    if not config.get("num_fewshot") or own.get("samples"):
        return None
    names = (own.get("split"), config.get("fewshot_split"), config.get("training_split"), split)
    return str(next(name for name in names if name))


def _set_fewshot_split(benchmark: Benchmark, split: str | None) -> None:
    """Tell the harness where few-shot examples come from, so that none of them is the question.

    It excludes the question from the draw only if examples and scored items come from a split of
    the same name; a file that serves as both is therefore made one split.
    """
    config = benchmark.config
    for key in ("fewshot_split", "training_split", "validation_split"):
        config.pop(key, None)
    own = {k: v for k, v in (config.get("fewshot_config") or {}).items() if k != "split"}
    if split is None:  # the harness would open a split that nobody needs
        config["fewshot_config"] = own if benchmark.num_fewshot else {}
        return
    if split != benchmark.split and benchmark.files[split] == benchmark.files[benchmark.split]:
        for by_split in (benchmark.items, benchmark.places, benchmark.files):
            del by_split[split]
        split = benchmark.split
    config["fewshot_config"] = own
    config["fewshot_split"] = split
    if split != benchmark.split:
        _drop_scored_examples(benchmark, split)
    available = len(benchmark.items[split]) - (split == benchmark.split)
    if benchmark.num_fewshot > available:
        raise UserError(
            "task-fewshot",
            benchmark.files[split],
            f'num_fewshot is {benchmark.num_fewshot}, split "{split}" has {available} examples '
            "that are not scored",
            "lower num_fewshot, or add items",
        )


def _drop_scored_examples(benchmark: Benchmark, split: str) -> None:
    """Remove scored items from the examples: the answer would be in the prompt."""
    scored = {json.dumps(item, sort_keys=True, default=str) for item in benchmark.scored_items}
    kept = [
        number
        for number, item in enumerate(benchmark.items[split])
        if json.dumps(item, sort_keys=True, default=str) not in scored
    ]
    dropped = len(benchmark.items[split]) - len(kept)
    if dropped:
        logger.info(
            f"evaluate: {benchmark.name}: {dropped} few-shot examples are also scored, left out"
        )
        benchmark.items[split] = [benchmark.items[split][number] for number in kept]
        benchmark.places[split] = [benchmark.places[split][number] for number in kept]


def _add_split(
    benchmark: Benchmark,
    split: str,
    reader: Callable[[TaskItem], TaskItem | None],
    rows: PlacedRows,
    origin: str,
) -> None:
    """Read and check the items of one split, and add them to the benchmark."""
    items: list[TaskItem] = []
    places: list[str] = []
    for place, row in rows:
        try:
            item = reader(row)
        except ValueError as error:
            fix = "correct that line"
            if seems_from_one(str(error), [one.get("gold", 0) for one in items]):
                raise UserError("task-item", place, f"{error}, and none is 0", FROM_ZERO) from error
            if "reader" not in benchmark.metadata:
                fix += ", or name another metadata.reader in the task file (raw: rows as they are)"
            raise UserError("task-item", place, str(error), fix) from error
        if item is None:
            benchmark.num_left_out += split == benchmark.split
            continue
        items.append(item)
        places.append(place)
    if not items:
        what = f'its split "{split}" has no items'
        raise UserError("task-empty", origin, what, "give it items, or leave the task out")
    benchmark.items[split], benchmark.places[split] = items, places
    benchmark.files[split] = origin
