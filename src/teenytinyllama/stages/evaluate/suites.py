"""Suites: several tasks under one name, with the numbers of examples that make them comparable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks._yaml_loader import load_yaml

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate.benchmark import Benchmark
from teenytinyllama.stages.evaluate.cloze import cloze_rows
from teenytinyllama.stages.evaluate.scored_models import folder_name
from teenytinyllama.stages.evaluate.task_loading import load_benchmark

logger = logging.getLogger(__name__)


HELDOUT = "heldout"
SUITES_DIR = Path(__file__).parent / "suites"


def load_benchmarks(
    tasks: tuple[Task, ...], language: str = "pt", heldout: Sequence[Document] = ()
) -> list[Benchmark]:
    """Every task of a recipe, suites opened, items read and checked.

    A storybook tells in `language`; a cloze task is made from the held-out documents, and left
    out, which is said, where they hold no sentence for it.

    Raises UserError for a wrong item, an unknown suite, and two tasks of one name.
    """
    found: list[Benchmark] = []
    for task in tasks:
        overrides = {"num_fewshot": task.num_fewshot} if task.num_fewshot >= 0 else {}
        if task.kind == "suite":
            found.extend(_open_suite(task, overrides))
        else:
            rows = cloze_rows(heldout, task.num_items, task.seed) if task.kind == "cloze" else None
            if rows == []:
                logger.info(
                    f"evaluate: {task.name} is left out: no sentence of the held-out text fits"
                )
                continue
            if rows and len(rows) < task.num_items:
                logger.info(
                    f"evaluate: {task.name} has {len(rows)} items, the held-out text gives no more"
                )
            found.append(load_benchmark(task, overrides, language=language, made=rows))
    _check_names(found)
    return found


def _check_names(benchmarks: Sequence[Benchmark]) -> None:
    """Each task needs a file of its own beside the held-out score, whatever the file system."""
    seen: set[str] = set()
    for name in (benchmark.name for benchmark in benchmarks):
        file = folder_name(name).lower()
        if file == HELDOUT:
            what = f'a task is called "{name}", as the score of the held-out text is'
            raise UserError("task-name", "evaluate.tasks", what, "give it another name")
        if file in seen:
            what = f'two tasks are called "{name}"'
            raise UserError("task-twice", "evaluate.tasks", what, "give one another name")
        seen.add(file)


def _open_suite(task: Task, overrides: dict[str, Any]) -> list[Benchmark]:
    """The tasks of one suite: from folders below `path`, or from the hub where path is empty.

    A folder that is not there leaves its task out, and that is said: published sets come one by
    one, and nobody has all of them at hand.
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
        if reading := {key: suite[key] for key in ("add_bos", "encodes_apart") if key in suite}:
            changes["metadata"] = reading
        if not task.path:
            single = Task(name=name, kind="hub", definition=entry["definition"])
        else:
            folders = [Path(task.path).expanduser() / folder for folder in entry["folders"]]
            there = next((folder for folder in folders if folder.is_dir()), None)
            if there is None:
                absent.append(entry["definition"])
                continue
            single = Task(name=name, path=str(there), definition=entry["definition"])
        found.append(load_benchmark(single, changes))
    if not found:
        what = f"none of the suite's folders is here ({', '.join(absent)})"
        raise UserError("suite-empty", task.path, what, "put one folder per task there")
    if absent:
        logger.info(
            f"evaluate: suite {task.name} without {', '.join(absent)}: no such folder in its path"
        )
    return found
