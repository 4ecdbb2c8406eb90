"""What a score is worth: its standard error, its interval, and whether chance explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054
BOOTSTRAP_DRAWS = 2000


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean, as lm-evaluation-harness computes it (n - 1 below the root).

    None for a single value, which says nothing about spread (JSON has no "not a number").

    >>> round(standard_error([1, 1, 0, 0]), 4)
    0.2887
    """
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def interval95(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean: Wilson's for hits and misses, a bootstrap for anything else.

    Wilson's does not shrink to a point when everything was hit or missed:

    >>> low, high = interval95([1.0] * 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if not values:
        return (math.nan, math.nan)
    array = np.asarray(values, dtype=np.float64)
    if np.isin(array, (0.0, 1.0)).all():
        return wilson95(float(array.mean()), len(array))
    draws = np.random.Generator(np.random.PCG64(0)).integers(
        0, len(array), (BOOTSTRAP_DRAWS, len(array))
    )
    low, high = np.quantile(array[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def wilson95(share: float, num_items: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; nothing right reaches down to 0 and all right up to 1.

    >>> wilson95(0.0, 475)[0], wilson95(1.0, 475)[1]
    (0.0, 1.0)
    """
    denominator = 1 + Z95**2 / num_items
    middle = (share + Z95**2 / (2 * num_items)) / denominator
    spread = share * (1 - share) / num_items + Z95**2 / (4 * num_items**2)
    half = Z95 * math.sqrt(spread) / denominator
    # At the ends both terms are equal but for their last bit, which would lift a score of 0
    # above a chance of 0.
    low = 0.0 if share == 0 else max(0.0, middle - half)
    high = 1.0 if share == 1 else min(1.0, middle + half)
    return low, high


def is_at_chance(interval: tuple[float, float], chance: float) -> bool:
    """True where the interval touches chance or lies below it: nothing was shown.

    >>> is_at_chance((0.24, 0.31), 0.25), is_at_chance((0.26, 0.33), 0.25)
    (True, False)
    """
    return interval[0] <= chance
