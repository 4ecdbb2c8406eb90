"""Thresholds learned from clean text."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters.calibration import calibrate, learn_language, read_clean


def test_threshold_drops_one_hundredth_of_clean_text() -> None:
    # 200 documents of ten words of letters and 0 to 199 numbers: n / (n + 10) without a letter.
    # At most 2 of 200 may go: the threshold is the second lowest share, 10 / (10 + 198).
    documents = ["ai ei oi ui eu ou au iu ia ie" + " 7" * number for number in range(200)]
    found = calibrate(documents, FilterSettings(), "pt")
    assert found.num_documents == 200
    assert found.thresholds["gopher_below_alpha_threshold"] == 0.048  # 10 / 208, rounded down
    assert found.thresholds["gopher_short_doc"] == 40  # length is not learned
    lowest = sorted(10 / (10 + number) for number in range(200))
    assert [share < 0.048 for share in lowest[:3]] == [True, False, False]


def test_unreadable_or_empty_sample_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="calibrate-unreadable"):
        read_clean(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match="calibrate-empty"):
        read_clean(tmp_path / "empty.txt")


def test_sample_of_json_records_is_an_error_and_prose_in_braces_is_not(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text('{"text": "O rio corre."}\n{"text": "A casa cai."}\n', "utf-8")
    with pytest.raises(UserError, match="calibrate-json"):
        read_clean(records)
    (tmp_path / "prose.txt").write_text("{sic} O rio corre.\n", "utf-8")
    assert read_clean(tmp_path / "prose.txt") == ["{sic} O rio corre."]


def test_small_sample_says_how_many_times_as_much_is_needed(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("O rio corre.\n", "utf-8")
    with pytest.raises(UserError, match="about 20 times as much"):
        learn_language(tmp_path / "small.txt", "gl")
