"""Whether a learning-rate schedule fits a training: one check for every stage that trains."""

from __future__ import annotations

from collections.abc import Iterator

from teenytinyllama.errors import RecipeWarning
from teenytinyllama.settings.training import ScheduleSettings


def check_warmup(stage: str, schedule: ScheduleSettings, num_steps: int) -> Iterator[RecipeWarning]:
    """A warm-up that the training never leaves: its rate never reaches the peak.

    >>> [str(one) for one in check_warmup("align", ScheduleSettings(warmup_steps=1000), 50)]
    ['warning[warmup-too-long] align.schedule.warmup_steps - 1,000 steps of warm-up, and the whole \
training has 50: the rate never reaches its peak - fix: --set align.schedule.warmup_steps=5']
    """
    if schedule.warmup_steps >= num_steps and schedule.warmup_steps:
        yield RecipeWarning(
            "warmup-too-long",
            f"{stage}.schedule.warmup_steps",
            f"{schedule.warmup_steps:,} steps of warm-up, and the whole training has "
            f"{num_steps:,}: the rate never reaches its peak",
            f"--set {stage}.schedule.warmup_steps={num_steps // 10}",
        )
