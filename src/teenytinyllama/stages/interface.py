"""What every stage may know beside its own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings

ScoreModel = Callable[[Any, Path], dict[str, float]]
"""(a causal language model, its tokenizer's folder) -> figures for the training's log."""


@dataclass(frozen=True)
class StageContext:
    """The run's name and language, the running energy meter, and the prices to count with.

    `score_model` is another stage's way to score a model that is still being trained, where the
    recipe asks for it: the command line hands it over, and no stage imports another.
    """

    run_name: str
    language: str
    energy: EnergySettings
    meter: EnergyMeter
    score_model: ScoreModel | None = None
