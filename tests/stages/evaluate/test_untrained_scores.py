"""A small sample of `bench/untrained_scores.py`: untrained models score chance."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench" / "untrained_scores.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location(BENCH.stem, BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_untrained_models_score_chance_on_every_task(bench, tmp_path):
    rows = bench.run(24, range(1), tmp_path, bench.TASKS)
    assert {row["task"] for row in rows} == set(bench.TASKS)
    assert sum(row["is_chance"] for row in rows) >= 0.9 * len(rows)
    assert [row["task"] for row in rows if row["length_rule"]] == []


def test_model_without_preferences_scores_a_half_of_minimal_pairs(bench, tmp_path):
    """The right sentence comes first in every pair: the harness's way it would have all of them."""
    scored = bench.untrained(0)
    scored.model.lm_head.weight.data.zero_()
    pairs = [{"sen": f"{n:03} ab", "wrong_sen": f"{n:03} ba"} for n in range(20)]
    found = bench.score(scored, "multiblimp_pt", pairs, tmp_path)
    assert (found["accuracy"], found["num_ties"], found["num_items"]) == (0.5, 18, 18)
