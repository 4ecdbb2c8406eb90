"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from teenytinyllama.settings.training import ScheduleSettings


def learning_rate_factor(step: int, schedule: ScheduleSettings, num_steps: int) -> float:
    """Share of the peak rate at update number `step`, counting from 0.

    Rises linearly over `warmup_steps`; then `cosine` and `linear` fall to `final_fraction` over
    all that is left, and `wsd` stays at the peak and falls linearly over the last
    `decay_fraction` of the run. The last update still moves the weights: its rate is one step
    of the fall above the end.

    >>> plan = ScheduleSettings(kind="wsd", warmup_steps=2, decay_fraction=0.5)
    >>> [round(learning_rate_factor(step, plan, 10), 3) for step in (0, 1, 4, 5, 6, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.8, 0.2]
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    start = schedule.warmup_steps
    if schedule.kind == "wsd":
        start = max(start, num_steps - round(schedule.decay_fraction * num_steps))
    fall = max(num_steps - start, 1)
    progress = max(0.0, (step - start) / fall)
    share = 1 - progress
    if schedule.kind == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.final_fraction + (1 - schedule.final_fraction) * max(share, 0.0)
