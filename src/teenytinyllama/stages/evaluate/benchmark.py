"""One task with its checked items, and the harness's task object over them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datasets
from lm_eval.api import task as harness_tasks

from teenytinyllama.errors import UserError
from teenytinyllama.stages.evaluate.dataset_loading import TaskItem
from teenytinyllama.stages.evaluate.right_choice import TargetKind
from teenytinyllama.stages.evaluate.task_sandbox import SandboxedTask

FEWSHOT_SEED = 1234  # the harness's default


@dataclass
class Benchmark:
    """One task, ready to be scored."""

    name: str
    config: dict[str, Any]
    split: str  # the one that is scored
    items: dict[str, list[TaskItem]] = field(default_factory=dict)  # by the harness's split names
    places: dict[str, list[str]] = field(default_factory=dict)  # `file:line` of each item
    files: dict[str, str] = field(default_factory=dict)  # split -> its file or dataset
    chances: list[float] = field(default_factory=list)  # of each scored item, by guessing
    num_left_out: int = 0
    num_equal_choices: int = 0  # items with two equal choices
    target_kind: TargetKind = None  # how right answers are read
    length_rule: dict[str, Any] | None = None  # where lengths alone give the answer away

    @property
    def metadata(self) -> dict[str, Any]:
        """Our part of the YAML file: reader, headline metric, encoding."""
        found: dict[str, Any] = self.config.get("metadata") or {}
        return found

    @property
    def reader(self) -> str:
        """Name of the reader that turns rows into items."""
        return str(self.metadata.get("reader", "plain"))

    @property
    def headline(self) -> str:
        """The metric that is reported as the task's accuracy."""
        return str(self.metadata.get("headline", "acc"))

    @property
    def num_fewshot(self) -> int:
        """Solved examples before each question."""
        return int(self.config.get("num_fewshot") or 0)

    @property
    def scored_items(self) -> list[TaskItem]:
        """The items of the split that is scored."""
        return self.items[self.split]

    @property
    def chance(self) -> float:
        """Accuracy of guessing: mean of 1 / choices over the items; 0 without choices."""
        return sum(self.chances) / len(self.chances)

    def keep_items(self, numbers: Sequence[int]) -> None:
        """Score only these items, given by their position in the split."""
        self.items[self.split] = [self.scored_items[number] for number in numbers]
        self.places[self.split] = [self.places[self.split][number] for number in numbers]
        self.chances = [self.chances[number] for number in numbers]

    def harness_task(self) -> SandboxedTask:
        """A new task object of the harness over these items.

        Raises UserError where the harness cannot make one from the task file and the first item.
        """
        config = copy.deepcopy({k: v for k, v in self.config.items() if k != "process_docs"})
        for key in ("dataset_path", "dataset_name", "dataset_kwargs"):
            config.pop(key, None)
        try:
            splits = {name: datasets.Dataset.from_list(items) for name, items in self.items.items()}
            config["custom_dataset"] = lambda **_: splits
            with quiet_harness():  # it warns about every dataset that is not from the Hub
                task = SandboxedTask(config=config)
        except Exception as error:  # templates and table columns can raise anything
            what = f'the harness cannot build task "{self.name}" ({reason_of(error)})'
            place = self.places[self.split][0]
            raise UserError("task-prompt", place, what, "correct the task file or the item") from (
                error
            )
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        task.target_kind = self.target_kind
        return task


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Within it the harness logs only errors and shows no progress bar beside ours."""
    log = logging.getLogger("lm_eval")
    level, bar = log.level, harness_tasks.tqdm
    log.setLevel(logging.ERROR)
    harness_tasks.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        log.setLevel(level)
        harness_tasks.tqdm = bar


def reason_of(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['?'])[0][:200]}"
