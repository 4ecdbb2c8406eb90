"""Tasks: a recipe's entry becomes a benchmark whose items are sound, or one line says why not.

A task is a YAML file in lm-evaluation-harness's own format (ours are in `tasks/`; a recipe may name
another), so prompts, examples and metrics are the harness's. Items are read by us, because a wrong
row must be named by file and line, and because local files need no hub and no cache.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.dataset_loading import Item, Rows, open_rows
from teenytinyllama.stages.evaluate.task_sandbox import read_definition
from teenytinyllama.stages.evaluate.task_validation import check_definition, check_items
from teenytinyllama.stages.evaluate.tasks.process_docs import READERS

logger = logging.getLogger(__name__)


# Published sets hold a few items with equal choices: those are scored and counted. More is a fault.
MAX_EQUAL_FRACTION = 0.02


def load_benchmark(
    task: Task,
    overrides: dict[str, Any] | None = None,
    *,
    language: str = "pt",
    made: list[Item] | None = None,
) -> Benchmark:
    """The benchmark of a recipe's task: definition read, items read, every prompt rendered.

    `made` are the items of a task that is read from nowhere.

    `overrides` replace keys of the definition (a suite's number of examples). Raises UserError
    naming file and line for anything that does not fit.
    """
    config = read_definition(task)
    for key, value in (overrides or {}).items():
        known = config.get(key)
        config[key] = {**known, **value} if isinstance(known, dict) else value
    config["task"] = task.name
    reader = (config.get("metadata") or {}).get("reader", "plain")
    if reader not in READERS:
        what = f'metadata.reader "{reader}" is unknown'
        raise UserError("task-reader", task.name, what, did_you_mean(str(reader), READERS))
    split = config.get("test_split") or config.get("validation_split")
    if split is None:
        what = "names neither test_split nor validation_split"
        raise UserError("task-no-split", task.name, what, "add test_split to the task file")
    config["test_split"] = split
    bench = Benchmark(task.name, config, split)
    check_definition(bench)

    def keep(name: str) -> None:
        rows, origin = open_rows(task, config, name, language, made)
        _keep_split(bench, name, READERS[reader], rows, origin)

    keep(split)
    examples = _examples_split(config, split)
    if examples not in (None, split):
        keep(examples)
    _set_examples(bench, examples)
    check_items(bench)
    return bench


def _examples_split(config: dict[str, Any], split: str) -> str | None:
    """The split that solved examples are drawn from; None where none is needed."""
    own = config.get("fewshot_config") or {}
    if not config.get("num_fewshot") or own.get("samples"):
        return None
    names = (own.get("split"), config.get("fewshot_split"), config.get("training_split"), split)
    return str(next(name for name in names if name))


def _set_examples(bench: Benchmark, split: str | None) -> None:
    """Tell the harness where solved examples come from, so that none of them is the question.

    It leaves the question out of the draw only where the split of the examples has the name of
    the one that is scored; a file that serves as both is therefore one split here.
    """
    config = bench.config
    for key in ("fewshot_split", "training_split", "validation_split"):
        config.pop(key, None)
    own = {k: v for k, v in (config.get("fewshot_config") or {}).items() if k != "split"}
    if split is None:  # the harness would open a split that nobody needs
        config["fewshot_config"] = own if bench.num_fewshot else {}
        return
    if split != bench.split and bench.files[split] == bench.files[bench.split]:
        for kept in (bench.items, bench.places, bench.files):
            del kept[split]
        split = bench.split
    config["fewshot_config"] = own
    config["fewshot_split"] = split
    if split != bench.split:
        _drop_asked(bench, split)
    available = len(bench.items[split]) - (split == bench.split)
    if bench.num_fewshot > available:
        raise UserError(
            "task-fewshot",
            bench.files[split],
            f'{bench.num_fewshot} solved examples are wanted, split "{split}" has {available} '
            "beside what is asked",
            "lower num_fewshot, or add items",
        )


def _drop_asked(bench: Benchmark, split: str) -> None:
    """Take out of the examples what is asked too: its answer would stand in the prompt."""
    asked = {json.dumps(item, sort_keys=True, default=str) for item in bench.scored_items}
    kept = [
        number
        for number, item in enumerate(bench.items[split])
        if json.dumps(item, sort_keys=True, default=str) not in asked
    ]
    dropped = len(bench.items[split]) - len(kept)
    if dropped:
        logger.info(
            f"evaluate: {bench.name}: {dropped} solved examples are asked too, and left out"
        )
        bench.items[split] = [bench.items[split][number] for number in kept]
        bench.places[split] = [bench.places[split][number] for number in kept]


def _keep_split(
    bench: Benchmark,
    split: str,
    reader: Callable[[Item], Item | None],
    rows: Rows,
    origin: str,
) -> None:
    """Check and keep the items of one split."""
    items, places, equal_at = [], [], []
    for where, row in rows:
        try:
            item = reader(row)
        except ValueError as error:
            fix = "correct that line"
            if "reader" not in bench.metadata:
                fix += ", or name another metadata.reader in the task file (raw: rows as they are)"
            raise UserError("task-item", where, str(error), fix) from error
        if item is None:
            bench.num_left_out += split == bench.split
            continue
        items.append(item)
        places.append(where)
        choices = item.get("choices", ()) if bench.reader != "raw" else ()
        if len(set(choices)) < len(choices):
            equal_at.append(where)
    if len(equal_at) > MAX_EQUAL_FRACTION * len(items):
        what = f"two choices are equal, as in {len(equal_at)} of {len(items)} items"
        raise UserError("task-equal-choices", equal_at[0], what, "make the choices differ")
    if split == bench.split:
        bench.num_equal_choices = len(equal_at)
    if not items:
        what = f'its split "{split}" has no items'
        raise UserError("task-empty", origin, what, "give it items, or leave the task out")
    bench.items[split], bench.places[split], bench.files[split] = items, places, origin
