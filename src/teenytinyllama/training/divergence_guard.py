"""What happens when gradients are not finite (NaN or infinite), and when a model overfits.

A step whose gradients are not finite changes nothing and is recorded. Three in a row mean that the
weights are diverging: the run rolls back to its last checkpoint and skips those steps; after three
rollbacks it gives up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError
from teenytinyllama.training import checkpoints
from teenytinyllama.training.metrics_logger import MetricsLogger
from teenytinyllama.training.train_state import TrainState

logger = logging.getLogger(__name__)

MAX_BAD_IN_A_ROW = 3
MAX_ROLLBACKS = 3


class DivergenceGuard:
    """Counts steps with bad gradients, and keeps the steps to skip after a rollback."""

    def __init__(
        self,
        metrics_logger: MetricsLogger,
        describe_step: Callable[[int], dict[str, Any]],
    ) -> None:
        self.skip_steps: set[int] = set()
        self._metrics_logger, self._describe_step = metrics_logger, describe_step

    def count(self, rows: Sequence[Sequence[float]], state: TrainState) -> None:
        """Take in the last steps, up to `state.step`: loss, gradient norm and bad flag of each."""
        first = state.step - len(rows)
        for step, row in enumerate(rows, start=first):
            is_bad, known = bool(row[2]), step in self.skip_steps
            if is_bad:
                state.num_skipped += 1
                if not known:
                    self._metrics_logger.log_skipped({"step": step, **self._describe_step(step)})
            state.bad_in_a_row = state.bad_in_a_row + 1 if is_bad and not known else 0

    def must_roll_back(self, state: TrainState, out_dir: Path) -> bool:
        """Whether the weights are diverging; the last bad steps then join those to skip.

        Raises UserError where rollbacks have not helped, or there is no checkpoint.
        """
        num_bad, last = state.bad_in_a_row, state.step
        if num_bad < MAX_BAD_IN_A_ROW:
            return False
        fix = "lower optimizer.peak_learning_rate, or look at the rows in skipped.jsonl"
        if state.rollbacks >= MAX_ROLLBACKS:
            what = f"the gradient is not finite, after {MAX_ROLLBACKS} rollbacks to a checkpoint"
            raise UserError("training-diverged", f"step {last}", what, fix)
        if not checkpoints.list_checkpoints(out_dir):
            what = f"{num_bad} gradients in a row are not finite, and there is no checkpoint yet"
            raise UserError("training-diverged", f"step {last}", what, fix)
        number = state.rollbacks + 1
        logger.warning(
            f"the weights are diverging ({num_bad} bad steps in a row): rolling back to the last"
            f" checkpoint (rollback {number} of {MAX_ROLLBACKS})"
        )
        self.skip_steps |= set(range(last - num_bad, last))
        return True


def first_overfit(losses: Sequence[float], margin: float) -> int | None:
    """The place of the first loss that is above an earlier one by more than the share `margin`.

    >>> first_overfit([2.0, 1.9, 1.91, 1.95, 1.99], margin=0.02)
    3
    >>> first_overfit([2.0, 1.9, 1.91], margin=0.02) is None
    True
    """
    best = inf
    for place, loss in enumerate(losses):
        if loss > best * (1 + margin):
            return place
        best = min(best, loss)
    return None
