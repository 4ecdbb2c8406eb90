"""Intervals against values worked out by hand and against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from teenytinyllama.stages.evaluate.intervals import interval95, ratio_interval95, wilson95


def test_ties_do_not_shrink_the_interval_to_a_point():
    assert interval95([0.5] * 20, with_ties=True) == wilson95(0.5, 20)
    low, high = interval95([0.5] * 20)
    assert (low, high) == (0.5, 0.5)  # of a share of probability


def test_interval_of_a_ratio_covers_it():
    """95 % of intervals of 12 documents hold the true 2 bits per byte."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        sizes = rng.integers(100, 2000, 12)
        low, high = ratio_interval95(sizes * rng.normal(2, 0.3, 12), sizes)
        hits += low <= 2 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_interval_needs_two_units():
    assert ratio_interval95([3.0], [1.0]) is None
    assert ratio_interval95([0.0, 0.0], [0.0, 0.0]) is None
    assert ratio_interval95([2.0, 4.0], [1.0, 2.0]) == pytest.approx((2.0, 2.0))
