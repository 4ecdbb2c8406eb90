"""Whether a training has passed its best: held-out loss that rises again, by more than a margin."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf


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
