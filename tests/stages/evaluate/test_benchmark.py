"""A benchmark keeps items, places and chances together; the harness is quiet only for a while."""

from __future__ import annotations

import logging

import pytest
from lm_eval.api import task as harness_tasks

from teenytinyllama.stages.evaluate.benchmark import Benchmark, quiet_harness


def test_kept_items_keep_their_places_and_chances():
    items = [{"question": str(number)} for number in range(4)]
    benchmark = Benchmark("x", {}, "test", {"test": items}, {"test": ["a", "b", "c", "d"]})
    benchmark.chances = [0.5, 0.25, 0.2, 0.5]
    benchmark.keep_items([0, 2])
    assert benchmark.scored_items == [items[0], items[2]]
    assert benchmark.places["test"] == ["a", "c"]
    assert benchmark.chance == pytest.approx(0.35)


def test_harness_logging_and_progress_bar_are_restored():
    log = logging.getLogger("lm_eval")
    before = (log.level, harness_tasks.tqdm)
    with pytest.raises(KeyError), quiet_harness():
        assert log.level == logging.ERROR
        assert harness_tasks.tqdm is not before[1]
        raise KeyError
    assert (log.level, harness_tasks.tqdm) == before
