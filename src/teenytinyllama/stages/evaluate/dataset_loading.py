"""Reads the items of a task: from local files, from the Hub, or generated for the run.

Each row comes with its place (`file:line`), so that an error message can name it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from teenytinyllama.artifacts.records import RECORD_SUFFIXES, read_records, suffix_of
from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.datasets import Task
from teenytinyllama.synthetic import dataset as synthetic

# A benchmark is often published under other split names than the harness asks for.
SPLIT_NAMES = {
    "test": ("test", "validation", "val", "dev"),
    "validation": ("validation", "val", "dev", "test"),
    "train": ("train", "dev"),
}

TaskItem = dict[str, Any]
PlacedRows = Iterator[tuple[str, TaskItem]]  # (`file:line`, row)


def open_split(
    task: Task, config: dict[str, Any], split: str, language: str, generated: list[TaskItem] | None
) -> tuple[PlacedRows, str]:
    """The rows of one split, each with its place, and the file or dataset that they come from.

    `generated` are the items of a cloze task.
    """
    if task.kind == "storybook":
        items = synthetic.questions(seed=task.seed, num_items=task.num_items, language=language)
        rows = ((f"storybook question {i}", dict(item)) for i, item in enumerate(items))
        return rows, "storybook"
    if task.kind == "cloze":
        return ((f"cloze item {i}", item) for i, item in enumerate(generated or [])), (
            "held-out text"
        )
    if task.kind == "hub":
        return _hub_rows(task, config, split)
    return _file_rows(task, split, language, is_scored=split == config["test_split"])


def _file_rows(task: Task, split: str, language: str, *, is_scored: bool) -> tuple[PlacedRows, str]:
    folder = user_path(task.path)
    if folder.is_file():
        return _rows_of(folder, language), str(folder)
    names = SPLIT_NAMES.get(split, (split,))
    if is_scored:  # a set that is only "train" on the Hub may be test.jsonl in a folder
        names = tuple(dict.fromkeys((*names, *SPLIT_NAMES["test"])))
    there = sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if suffix_of(path) in RECORD_SUFFIXES and path.is_file()
    )
    for name in names:
        found = [path for path in there if path.name.lower().startswith(name)]
        if len(found) > 1 and (named := [p for p in found if p.name.lower() == f"{name}.jsonl"]):
            found = named
        if len(found) > 1:
            what = f'several files for split "{split}": {", ".join(p.name for p in found)}'
            raise UserError("task-split", str(folder), what, "name the file itself in path")
        if found:
            return _rows_of(found[0], language), str(found[0])
    here = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no folder"
    raise UserError(
        "task-missing",
        str(folder),
        f'no file for split "{split}" of task "{task.name}" (found: {here or "nothing"})',
        f"put {names[0]}.jsonl there",
    )


def _rows_of(path: Path, language: str) -> PlacedRows:
    for record in read_records(path, language):
        if record.error:
            raise UserError("task-row", record.place, record.error, "correct that line")
        yield record.place, record.fields


def _hub_rows(task: Task, config: dict[str, Any], split: str) -> tuple[PlacedRows, str]:
    path = task.path or config.get("dataset_path")
    name = None if task.path else config.get("dataset_name")
    if not path:
        what = "names no dataset on the Hub"
        raise UserError("task-hub", task.name, what, 'give it path = "owner/dataset"')
    try:
        published = datasets.get_dataset_split_names(path, name)
        found = [n for n in SPLIT_NAMES.get(split, (split,)) if n in published]
        if not found and len(published) == 1 and split == config["test_split"]:
            found = published  # one split, whatever its name
        if not found:
            what = f'has no split like "{split}" (found: {", ".join(published)})'
            raise UserError("task-split", path, what, "name another dataset in path")
        rows = datasets.load_dataset(path, name, split=found[0])
    except UserError:
        raise
    except Exception as error:  # datasets and the Hub's client share no base class of errors
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        what = f"the dataset cannot be read ({reason})"
        fix = 'check the id and the network, or use kind = "files" with a local copy'
        raise UserError("task-hub", path, what, fix) from error
    origin = f"{path}/{name or 'default'}/{found[0]}"
    return ((f"{origin}:{i + 1}", dict(row)) for i, row in enumerate(rows)), origin
