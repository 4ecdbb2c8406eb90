"""Whether a schedule fits a training: one check for every stage that trains."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from teenytinyllama.errors import RecipeWarning, UserError
from teenytinyllama.settings.training import ScheduleSettings

logger = logging.getLogger(__name__)

MAX_STEPS = 10**10
"""At a thousand a second, four months."""
MANY_EPOCHS = 100


def check_warmup(
    stage: str,
    schedule: ScheduleSettings,
    num_steps: int,
    *,
    setting: str = "schedule.warmup_steps",
) -> Iterator[RecipeWarning]:
    """A warm-up that the training never leaves: its rate never reaches the peak.

    >>> [str(one) for one in check_warmup("align", ScheduleSettings(warmup_steps=1000), 50)]
    ['warning[warmup-too-long] align.schedule.warmup_steps - 1,000 steps of warm-up, and the whole \
training has 50: the rate never reaches its peak - fix: --set align.schedule.warmup_steps=5']
    """
    if schedule.warmup_steps >= num_steps and schedule.warmup_steps:
        yield RecipeWarning(
            "warmup-too-long",
            f"{stage}.{setting}",
            f"{schedule.warmup_steps:,} steps of warm-up, and the whole training has "
            f"{num_steps:,}: the rate never reaches its peak",
            f"--set {stage}.{setting}={num_steps // 10}",
        )


def check_epochs(stage: str, num_epochs: int, num_steps: int) -> Iterator[UserError]:
    """Epochs that cannot end, or so many that a model only learns its data by heart."""
    where, what = f"{stage}.num_epochs = {num_epochs}", f"at least {num_steps:,} steps"
    if num_steps > MAX_STEPS:
        fix = f"--set {stage}.num_epochs=3"
        yield UserError("epochs-without-end", where, f"{what}, which no machine finishes", fix)
    elif num_epochs > MANY_EPOCHS:
        yield RecipeWarning(
            "epochs-many",
            where,
            f"{what}: beyond a few epochs a model learns its data by heart",
            f"--set {stage}.num_epochs=3",
        )


def check_training(
    stage: str,
    schedule: ScheduleSettings,
    *,
    num_epochs: int,
    num_steps: int,
    setting: str = "schedule.warmup_steps",
) -> None:
    """Both checks for a stage that knows its steps only from its data, before it starts.

    Logs what is doubtful, raises UserError for what cannot end.
    """
    for problem in (
        *check_epochs(stage, num_epochs, num_steps),
        *check_warmup(stage, schedule, num_steps, setting=setting),
    ):
        if not isinstance(problem, RecipeWarning):
            raise problem
        logger.info(f"{stage}: {problem}")
