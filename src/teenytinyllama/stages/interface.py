"""What the runner and a stage know of each other: its declaration, what it is given, its result.

Importing this loads nothing heavy: `ttl --help` reads every declaration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from teenytinyllama.process_group import ALONE, ProcessGroup

if TYPE_CHECKING:
    from teenytinyllama.energy import EnergyMeter
    from teenytinyllama.settings.base import EnergySettings

ScoreModel = Callable[[Any, Path], dict[str, float]]
"""(a causal language model, its tokenizer's folder) -> metrics for the training log."""


@dataclass(frozen=True)
class Stage:
    """One stage, as its package declares it. Its folder in a run has its name."""

    name: str
    title: str
    reads: tuple[str, ...] = ()
    """Stages whose folders its `run` needs, as `<name>_dir`."""
    reads_if_there: tuple[str, ...] = ()
    """Stages whose folders its `run` takes where they are finished, else None."""
    revision: int = 1
    """Grows when the code makes other results from the same settings: older results are stale."""
    keeps_checkpoints: bool = False
    """Unfinished work took long: it is set aside only where the user says `--redo`."""
    many_processes: bool = False
    """Works with as many processes as `torchrun` started; any other stage, with one."""
    loads_model: bool = False
    """Trains, scores or converts a Llama: transformers' class of it is loaded first."""
    shows_manifests: bool = False
    """Shows manifests in full: their times and energy, and prices, count as its input."""
    states_license: bool = False
    """Writes the model's licence into its files: `report.license` is one of its settings."""
    takes_scorer: bool = False
    """Its context has `score_model`, where the recipe asks for scores in training."""
    scorer_module: str = ""
    """Module with `scorer(settings, language, processes)`: another stage's `score_model`."""
    scorer_setting: str = ""
    """Setting of this stage that asks for it: 0 does not."""
    has_checks: bool = False
    """Its package has `checks.check(settings, recipe)`: what a run would fail on."""

    @property
    def module(self) -> str:
        """The module with its `run`."""
        return f"teenytinyllama.stages.{self.name}.stage"

    @property
    def checks_module(self) -> str:
        """The module with its `check`: quick, and without torch, for it is imported at each run.

        `check(settings: <Stage>Settings, recipe: Recipe) -> Iterable[UserError]`, each of them one
        problem; a `RecipeWarning` where the run can go on. Only what the recipe and the files that
        it names show: nothing of the run's folder, no network.
        """
        return f"teenytinyllama.stages.{self.name}.checks"


@dataclass(frozen=True)
class StageContext:
    """What a stage is told beside its settings and folders.

    `score_model` is another stage's way to score a model that is still training; the runner
    passes it on, so that no stage imports another.
    """

    run_name: str
    language: str
    energy: EnergySettings
    meter: EnergyMeter
    score_model: ScoreModel | None = None
    processes: ProcessGroup = ALONE
    """The ranks that work on a stage of `many_processes`; one in any other."""
    license: str = ""
    """The licence that the recipe wants for the model; empty: what its text allows."""


class StageResult(NamedTuple):
    """What a stage's `run` returns; the runner writes it into the manifest."""

    counts: dict[str, Any]
    metrics: dict[str, Any]
