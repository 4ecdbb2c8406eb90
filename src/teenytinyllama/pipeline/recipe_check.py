"""What a run would fail on, found before it starts: `ttl check`, and the first thing in `ttl run`.

Each stage knows its own: `stages/<name>/checks.py`, declared by `has_checks`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from teenytinyllama.artifacts.manifest import MANIFEST_NAME
from teenytinyllama.errors import RecipeWarning, SeveralErrors, UserError
from teenytinyllama.planning.recipe_cost import (
    available_memory_bytes,
    bytes_in,
    free_disk_bytes,
    has_gpu,
    needs_of,
)
from teenytinyllama.progress import format_bytes
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.interface import Stage

logger = logging.getLogger(__name__)


def find_problems(recipe: Recipe, stages: Sequence[Stage]) -> list[UserError]:
    """Every problem of these stages that the recipe and its files show, in pipeline order."""
    found: list[UserError] = []
    for stage in stages:
        settings = getattr(recipe, stage.name)
        if settings is None or not stage.has_checks:
            continue
        check = importlib.import_module(stage.checks_module).check
        try:
            # One by one: a check that raises has already said what it found before.
            for problem in check(settings, recipe):
                found.append(problem)
        except UserError as error:
            found.append(error)
    return found


def check_recipe(recipe: Recipe, stages: Sequence[Stage], run_dir: Path) -> None:
    """Log what is doubtful; raise what would stop these stages, all of it at once."""
    errors = []
    found = [*_missing_sections(recipe, stages, run_dir), *find_problems(recipe, stages)]
    for problem in [*found, *_check_machine(recipe, stages, run_dir)]:
        if isinstance(problem, RecipeWarning):
            logger.warning(str(problem))
        else:
            errors.append(problem)
    if len(errors) > 1:
        raise SeveralErrors(errors)
    if errors:
        raise errors[0]


def _missing_sections(
    recipe: Recipe, stages: Sequence[Stage], run_dir: Path
) -> Iterator[UserError]:
    """Stages that others read, and that neither the recipe nor the run's folder has."""
    readers = {name: stage.name for stage in stages for name in stage.reads}
    for name, reader in readers.items():
        has_section = getattr(recipe, name) is not None
        is_read = getattr(recipe, reader) is not None
        if is_read and not has_section and not (run_dir / name / MANIFEST_NAME).is_file():
            yield UserError(
                "stage-not-in-recipe",
                recipe.name,
                f"has no section [{name}], and the stage {reader} reads it",
                f"add [{name}] to the recipe",
            )


def _check_machine(recipe: Recipe, stages: Sequence[Stage], run_dir: Path) -> Iterator[UserError]:
    """A training whose weights alone do not fit in memory, or its checkpoints on the disk."""
    if recipe.pretrain is None or all(stage.name != "pretrain" for stage in stages):
        return
    needs = needs_of(recipe)
    free = free_disk_bytes(run_dir)
    # A training that goes on has some of its checkpoints already.
    missing = needs.disk_bytes - bytes_in(run_dir / "pretrain")
    if missing > free:
        yield UserError(
            "disk-too-small",
            str(run_dir),
            f"checkpoints and model need {format_bytes(missing)}, {format_bytes(free)} are free",
            "free space, choose another --run-dir, or keep fewer permanent checkpoints",
        )
    if has_gpu():
        return  # its memory is known only to torch, and several may share a model
    memory = available_memory_bytes()
    if needs.least_memory_bytes > memory:
        yield UserError(
            "memory-too-small",
            "pretrain.model",
            f"{needs.parameters:,} parameters take {format_bytes(needs.least_memory_bytes)} of "
            f"memory while they train, {format_bytes(memory)} are free",
            "a smaller model, a GPU, or `ttl plan --gpu cpu --hours 10` for a size that fits",
        )
