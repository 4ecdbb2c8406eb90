"""What fine-tuning would fail on, known from the recipe and the folders that it names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.training.schedule_check import check_epochs


def check(settings: FinetuneSettings, recipe: Recipe) -> Iterator[UserError]:
    """Folders that are not there, libraries that are missing, epochs without an end."""
    for task in settings.tasks:
        if task.kind == "hub" and find_spec("datasets") is None:
            yield missing_extra("datasets", "corpus")
        if task.kind == "files" and not user_path(task.path).is_dir():
            yield UserError(
                "task-missing",
                f"finetune.tasks {task.name}",
                f'"{task.path}" is not a folder with a file for each split',
                "correct its path",
            )
    if settings.lora and find_spec("peft") is None:
        yield missing_extra("peft", "lora")
    yield from check_epochs("finetune", settings.num_epochs, settings.num_epochs)
