"""95 % intervals of scores: of an accuracy, of a mean, and of bits per byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

Z95 = 1.959963984540054
BOOTSTRAP_DRAWS = 2000


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean with n - 1, as lm-evaluation-harness computes it.

    None for a single value, which has no spread (JSON has no NaN).

    >>> round(standard_error([1, 1, 0, 0]), 4)
    0.2887
    """
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def interval95(values: Sequence[float], *, with_ties: bool = False) -> tuple[float, float]:
    """95 % interval of the mean: Wilson's for 0s and 1s, a bootstrap for anything else.

    `with_ties`: the values are those of choices, a tie counting as a part of 1. Wilson's interval
    is then a little wide, but does not shrink to a point when all values are equal:

    >>> low, high = interval95([1.0] * 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if not values:
        return (math.nan, math.nan)
    array = np.asarray(values, dtype=np.float64)
    if with_ties or np.isin(array, (0.0, 1.0)).all():
        return wilson95(float(array.mean()), len(array))
    draws = np.random.Generator(np.random.PCG64(0)).integers(
        0, len(array), (BOOTSTRAP_DRAWS, len(array))
    )
    low, high = np.quantile(array[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def wilson95(share: float, num_items: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927).

    >>> wilson95(0.0, 475)[0], wilson95(1.0, 475)[1]
    (0.0, 1.0)
    """
    denominator = 1 + Z95**2 / num_items
    middle = (share + Z95**2 / (2 * num_items)) / denominator
    spread = share * (1 - share) / num_items + Z95**2 / (4 * num_items**2)
    half = Z95 * math.sqrt(spread) / denominator
    # For a share of 0 both terms are equal but for the last bit, which would lift the score
    # above a chance of 0.
    low = 0.0 if share == 0 else max(0.0, middle - half)
    high = 1.0 if share == 1 else min(1.0, middle + half)
    return low, high


def is_at_chance(interval: tuple[float, float], chance: float) -> bool:
    """True where the interval includes chance or is below it.

    >>> is_at_chance((0.24, 0.31), 0.25), is_at_chance((0.26, 0.33), 0.25)
    (True, False)
    """
    return interval[0] <= chance


def ratio_interval95(
    amounts: Sequence[float], sizes: Sequence[float]
) -> tuple[float, float] | None:
    """95 % interval of `sum(amounts) / sum(sizes)` over units that are drawn at random.

    By the jackknife (the ratio without each unit in turn), which holds for a few units of very
    different sizes too, with Student's t. None for fewer than two units that are not empty.

    >>> low, high = ratio_interval95([2.0, 3.0, 7.0], [1.0, 2.0, 3.0])
    >>> round(low, 2), round(high, 2)
    (0.55, 3.45)
    """
    amount, size = np.asarray(amounts, np.float64), np.asarray(sizes, np.float64)
    amount, size = amount[size > 0], size[size > 0]
    count = len(size)
    if count < 2:
        return None
    ratio = amount.sum() / size.sum()
    without = (amount.sum() - amount) / (size.sum() - size)
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, count - 1)) * error
    return float(max(0.0, ratio - half)), float(ratio + half)
