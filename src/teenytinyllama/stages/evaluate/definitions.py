"""Tasks: where their items come from, whether the items are sound, and the harness's task object.

A task is a YAML file in lm-evaluation-harness's own format (ours are in `tasks/`; a recipe may name
another), so prompts, examples and metrics are the harness's. Items are read by us, because a wrong
row must be named by file and line, and because local files need no hub and no cache.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from teenytinyllama import storybook
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.recipe import Task
from teenytinyllama.stages.evaluate.tasks.fields import READERS

TASKS_DIR = Path(__file__).parent / "tasks"
FEWSHOT_SEED = 1234  # the harness's own default
# Published sets hold a few items with equal choices: those are scored and counted. More is a fault.
MAX_EQUAL_FRACTION = 0.02
# What in a task file, or in the Python insides that its template reaches for, is code.
CODE_SIGNS = ("!function", "!!python", "__", "|attr", "| attr", "\\x5f", "\\u005f")
MAX_INCLUDES = 8
# One item would do: a template is the same for all.
NUM_LEAK_CHECKS = 5
# A benchmark is often published, or at hand, under other split names than the harness asks for.
SPLIT_NAMES = {
    "test": ("test", "validation", "val", "dev"),
    "validation": ("validation", "val", "dev", "test"),
    "train": ("train", "dev"),
}

Item = dict[str, Any]


@dataclass
class Benchmark:
    """One task with its sound items, ready to be scored."""

    name: str
    config: dict[str, Any]
    items: dict[str, list[Item]]  # by the harness's split names
    split: str  # the one that is scored
    num_left_out: int = 0
    num_equal_choices: int = 0  # items in which two choices read the same
    files: dict[str, str] = field(default_factory=dict)  # split -> file or dataset it came from

    @property
    def metadata(self) -> dict[str, Any]:
        """Our part of the YAML file: reader, headline metric, encoding."""
        found: dict[str, Any] = self.config.get("metadata") or {}
        return found

    @property
    def scored_items(self) -> list[Item]:
        """The items of the split that is scored."""
        return self.items[self.split]

    @property
    def chance(self) -> float:
        """Accuracy of guessing: one in the number of choices, item by item; 0 for free words."""
        shares = []
        for item in self.scored_items:
            if "labels" in item:
                shares.append(sum(item["labels"]) / len(item["labels"]))
            else:
                shares.append(1 / len(item["choices"]) if "choices" in item else 0.0)
        return sum(shares) / len(shares)

    def harness_task(self) -> ConfigurableTask:
        """A fresh task object of the harness over these items."""
        config = copy.deepcopy({k: v for k, v in self.config.items() if k != "process_docs"})
        for key in ("dataset_path", "dataset_name", "dataset_kwargs"):
            config.pop(key, None)
        splits = {name: datasets.Dataset.from_list(items) for name, items in self.items.items()}
        config["custom_dataset"] = lambda **_: splits
        quiet = logging.getLogger("lm_eval")
        level = quiet.level
        quiet.setLevel(logging.ERROR)  # it warns about every dataset that is not from the hub
        try:
            task = ConfigurableTask(config=config)
        finally:
            quiet.setLevel(level)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        self._check_leak(task)
        return task

    def _check_leak(self, task: ConfigurableTask) -> None:
        """The question must read the same whichever choice is right."""
        for item in self.scored_items[:NUM_LEAK_CHECKS]:
            if "choices" not in item:
                continue
            other = {**item, "gold": (item["gold"] + 1) % len(item["choices"])}
            if task.doc_to_text(item) != task.doc_to_text(other):
                raise UserError(
                    "task-leak",
                    self.name,
                    "its doc_to_text changes with the right answer: the question gives it away",
                    "take the answer's field out of doc_to_text",
                )


def load_benchmark(
    task: Task,
    overrides: dict[str, Any] | None = None,
    *,
    language: str = "pt",
    made: list[Item] | None = None,
) -> Benchmark:
    """The benchmark of a recipe's task: definition read, items read and checked.

    `made` are the items of a task that is read from nowhere.

    `overrides` replace keys of the definition (a suite's number of examples). Raises UserError
    naming file and line for anything that does not fit.
    """
    config = _definition(task)
    for key, value in (overrides or {}).items():
        known = config.get(key)
        config[key] = {**known, **value} if isinstance(known, dict) else value
    config["task"] = task.name
    reader = (config.get("metadata") or {}).get("reader", "plain")
    if reader not in READERS:
        what = f'metadata.reader "{reader}" is unknown'
        raise UserError("task-reader", task.name, what, did_you_mean(reader, READERS))
    split = config.get("test_split") or config.get("validation_split")
    if split is None:
        what = "names neither test_split nor validation_split"
        raise UserError("task-no-split", task.name, what, "add test_split to the task file")
    wanted = [split]
    if config.get("num_fewshot"):
        wanted.append(config.get("fewshot_split") or config.get("training_split") or split)
    else:  # the harness would open a split that nobody needs
        for key in ("fewshot_split", "fewshot_config", "training_split"):
            config.pop(key, None)
    config.pop("validation_split", None)
    config["test_split"] = split
    bench = Benchmark(task.name, config, {}, split)
    for name in dict.fromkeys(wanted):
        rows, origin = _made_rows(task, language, made) or _rows(bench, task, name)
        _keep_split(bench, name, READERS[reader], rows, origin)
    _check_fewshot(bench, wanted[-1])
    return bench


def _definition(task: Task) -> dict[str, Any]:
    """The task file: one of ours by name, or a path to another."""
    made = task.kind in ("storybook", "cloze")
    name = task.definition or (task.kind if made else task.name)
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASKS_DIR / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in TASKS_DIR.glob("*.yaml"))
        what = f'no task file "{name}"'
        raise UserError("task-unknown", "evaluate.tasks", what, did_you_mean(name, known))
    if path.parent != TASKS_DIR:
        _check_no_code(path)
    try:
        config: dict[str, Any] = load_yaml(path)
    except Exception as error:
        what = f"cannot be read as a task file ({str(error).splitlines()[0]})"
        raise UserError("task-syntax", str(path), what, "correct that file") from error
    return config


def _check_no_code(path: Path, depth: int = 0) -> None:
    """Raises UserError for a foreign task file that would run code: the harness imports what a
    `!function` names, and its templates run outside a sandbox. Files that it includes count too.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for sign in CODE_SIGNS:
        if sign in text:
            what = f"holds {sign}, which would run code from the file"
            raise UserError("task-code", str(path), what, "write it as a plain template")
    for name in re.findall(r"^include:\s*[\"']?([^\s\"'#]+)", text, re.MULTILINE):
        if depth < MAX_INCLUDES:
            _check_no_code(path.parent / name, depth + 1)


def _keep_split(
    bench: Benchmark,
    split: str,
    reader: Callable[[Item], Item | None],
    rows: Iterator[tuple[str, Item]],
    origin: str,
) -> None:
    """Check and keep the items of one split."""
    items = []
    equal_at = []
    for where, row in rows:
        try:
            item = reader(row)
        except ValueError as error:
            raise UserError("task-item", where, str(error), "correct that line") from error
        if item is None:
            bench.num_left_out += split == bench.split
        else:
            items.append(item)
            choices = item.get("choices", ())
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
    bench.items[split] = items
    bench.files[split] = origin


def _check_fewshot(bench: Benchmark, split: str) -> None:
    wanted = int(bench.config.get("num_fewshot") or 0)
    same = split == bench.split
    available = len(bench.items[split]) - same
    if wanted > available:
        raise UserError(
            "task-fewshot",
            bench.files[split],
            f'{wanted} solved examples are wanted, split "{split}" has {available}',
            "lower num_fewshot, or add items",
        )


def _made_rows(
    task: Task, language: str, made: list[Item] | None
) -> tuple[Iterator[tuple[str, Item]], str] | None:
    """Items that are made instead of read; None for a task of files or of the Hub."""
    if task.kind == "storybook":
        told = storybook.questions(seed=task.seed, num_items=task.num_items, language=language)
        rows = ((f"storybook question {i}", dict(item)) for i, item in enumerate(told))
        return rows, "storybook"
    if task.kind == "cloze":
        rows = ((f"cloze item {i}", item) for i, item in enumerate(made or []))
        return rows, "held-out text"
    return None


def _rows(bench: Benchmark, task: Task, split: str) -> tuple[Iterator[tuple[str, Item]], str]:
    if task.kind == "hub":
        return _hub_rows(bench, task, split)
    return _file_rows(task, split)


def _file_rows(task: Task, split: str) -> tuple[Iterator[tuple[str, Item]], str]:
    folder = Path(task.path).expanduser()
    if folder.is_file():
        return read_rows(folder), str(folder)
    names = SPLIT_NAMES.get(split, (split,))
    for name in names:
        found = sorted(
            path
            for path in folder.glob(f"{name}*")
            if path.suffix in (".jsonl", ".json", ".csv") and path.is_file()
        )
        if len(found) > 1 and folder / f"{name}.jsonl" in found:
            found = [folder / f"{name}.jsonl"]
        if len(found) > 1:
            what = f'several files for split "{split}": {", ".join(p.name for p in found)}'
            raise UserError("task-split", str(folder), what, "name the file itself in path")
        if found:
            return read_rows(found[0]), str(found[0])
    here = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no folder"
    raise UserError(
        "task-missing",
        str(folder),
        f'no file for split "{split}" of task "{task.name}" (found: {here or "nothing"})',
        f"put {names[0]}.jsonl there",
    )


def read_rows(path: Path) -> Iterator[tuple[str, Item]]:
    """The rows of a .jsonl, .json (one list) or .csv file, each with its place `file:line`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read as UTF-8 text ({error})"
        raise UserError("task-unreadable", str(path), what, "correct that file") from error
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
        for row in reader:
            yield f"{path}:{reader.line_num}", dict(row)
        return
    if path.suffix == ".json" and text.lstrip().startswith("["):
        for index, row in enumerate(_parse(text, f"{path}:1")):
            yield f"{path}:item {index + 1}", _as_object(row, f"{path}:item {index + 1}")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _as_object(_parse(line, where), where)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(
            "task-json", where, f"not valid JSON ({error})", "correct that line"
        ) from error


def _as_object(row: Any, where: str) -> Item:
    if not isinstance(row, dict):
        what = f"expected an object with named fields, got {type(row).__name__}"
        raise UserError("task-row", where, what, "correct that line")
    return row


def _hub_rows(bench: Benchmark, task: Task, split: str) -> tuple[Iterator[tuple[str, Item]], str]:
    path = task.path or bench.config.get("dataset_path")
    name = None if task.path else bench.config.get("dataset_name")
    if not path:
        what = "names no dataset on the hub"
        raise UserError("task-hub", task.name, what, 'give it path = "owner/dataset"')
    try:
        offered = datasets.get_dataset_split_names(path, name)
        found = [n for n in SPLIT_NAMES.get(split, (split,)) if n in offered]
        if not found and len(offered) == 1 and split == bench.split:
            found = offered  # published in one piece, whatever its name
        if not found:
            what = f'has no split like "{split}" (found: {", ".join(offered)})'
            raise UserError("task-split", path, what, "name another dataset in path")
        rows = datasets.load_dataset(path, name, split=found[0])
    except (OSError, ValueError, ConnectionError) as error:
        what = f"the dataset cannot be read ({str(error).splitlines()[0][:200]})"
        fix = 'check the id and the network, or use kind = "files" with a local copy'
        raise UserError("task-hub", path, what, fix) from error
    origin = f"{path}/{name or 'default'}/{found[0]}"
    return ((f"{origin}:{i + 1}", dict(row)) for i, row in enumerate(rows)), origin
