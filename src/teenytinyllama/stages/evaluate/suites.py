"""Suites: several tasks under one name, with the numbers of examples that make them comparable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks._yaml_loader import load_yaml

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.cloze import cloze_rows
from teenytinyllama.stages.evaluate.scored_models import folder_name
from teenytinyllama.stages.evaluate.task_loading import load_benchmark

logger = logging.getLogger(__name__)

HELDOUT = "heldout"  # the file of the held-out score, beside those of the tasks
SUITES_DIR = Path(__file__).parent / "suites"


def load_benchmarks(
    tasks: tuple[Task, ...], language: str = "pt", heldout: Sequence[Document] = ()
) -> list[Benchmark]:
    """Every task of a recipe, suites expanded, items read and checked.

    `language` is that of storybook tasks. A cloze task is made from the held-out documents, and
    left out with a message where they have no sentence for it.

    Raises UserError for a wrong item, an unknown suite, and two tasks of one name.
    """
    found: list[Benchmark] = []
    for task in tasks:
        overrides = {"num_fewshot": task.num_fewshot} if task.num_fewshot >= 0 else {}
        if task.kind == "suite":
            found.extend(_load_suite(task, overrides))
            continue
        rows = cloze_rows(heldout, task.num_items, task.seed) if task.kind == "cloze" else None
        if rows is not None and len(rows) < task.num_items:
            logger.info(
                f"evaluate: {task.name}: {f'only {len(rows)} items' if rows else 'left out'} "
                f"(held-out text too short for {task.num_items})"
            )
        if rows != []:
            found.append(load_benchmark(task, overrides, language=language, generated=rows))
    _check_names(found)
    return found


def _check_names(benchmarks: Sequence[Benchmark]) -> None:
    """Raise UserError where two scores would share a file, on any file system."""
    seen: set[str] = set()
    for name in (benchmark.name for benchmark in benchmarks):
        file = folder_name(name).lower()
        if file == HELDOUT:
            what = f'a task has the name "{name}", which the score of the held-out text has'
            raise UserError("task-name", "evaluate.tasks", what, "give it another name")
        if file in seen:
            what = f'two tasks have the name "{name}"'
            raise UserError("task-twice", "evaluate.tasks", what, "give one another name")
        seen.add(file)


def _load_suite(task: Task, overrides: dict[str, Any]) -> list[Benchmark]:
    """The tasks of one suite: from folders below `path`, or from the Hub where path is empty.

    A task without a folder is left out with a message: nobody has all published sets at hand.
    """
    path = SUITES_DIR / f"{task.name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in SUITES_DIR.glob("*.yaml"))
        what = f'no suite "{task.name}"'
        raise UserError("suite-unknown", "evaluate.tasks", what, did_you_mean(task.name, known))
    suite = load_yaml(path)
    found, absent = [], []
    for entry in suite["tasks"]:
        name = f"{task.name}.{entry['definition']}"
        changes: dict[str, Any] = {"num_fewshot": entry["num_fewshot"], **overrides}
        if encoding := {key: suite[key] for key in ("add_bos", "encodes_apart") if key in suite}:
            changes["metadata"] = encoding
        if not task.path:
            single = Task(name=name, kind="hub", definition=entry["definition"])
        else:
            folders = [user_path(task.path) / folder for folder in entry["folders"]]
            folder = next((folder for folder in folders if folder.is_dir()), None)
            if folder is None:
                absent.append(entry["definition"])
                continue
            single = Task(name=name, path=str(folder), definition=entry["definition"])
        found.append(load_benchmark(single, changes))
    if not found:
        what = f"has no folder of the suite's tasks ({', '.join(absent)})"
        raise UserError("suite-empty", task.path, what, "put one folder per task there")
    if absent:
        logger.info(
            f"evaluate: suite {task.name} without {', '.join(absent)}: no such folder in its path"
        )
    return found
