"""The plain rules, counted by hand."""

from __future__ import annotations

from teenytinyllama.stages.corpus.filters.heuristic_rules import ending_lines, seen_before, top_run


def test_runs_seen_before_are_counted_by_hand() -> None:
    # Words of 2 letters; "aa bb cc dd ee" occurs twice: the second time is 10 characters.
    words = ["aa", "bb", "cc", "dd", "ee", "ff", "aa", "bb", "cc", "dd", "ee", "gg"]
    assert seen_before(words, 5) == 10
    assert seen_before(words, 6) == 0


def test_top_run_is_the_earliest_of_equals() -> None:
    # "a b" and "ccc ddd" both occur twice: "a b" came first, 2 times 3 characters.
    assert top_run(["a", "b", "ccc", "ddd", "e", "a", "b", "f", "ccc", "ddd"], 2) == 6


def test_a_danda_ends_a_line() -> None:
    assert ending_lines(["সে এল।", "সে এল"]) == 0.5
