from __future__ import annotations

from pathlib import Path

import pytest
from support.report_run import METRICS, build_run, write_stage

from teenytinyllama.errors import UserError
from teenytinyllama.stages.report.report_page import html_of


def test_metrics_and_settings_that_differ(tmp_path: Path) -> None:
    rates = {"a": 1e-3, "b": 2e-3, "c": 1e-3}
    runs = [build_run(tmp_path / name, name, rate) for name, rate in rates.items()]
    changed = {**METRICS["evaluate"], "heldout_bits_per_byte": 0.987}
    write_stage(runs[1], "evaluate", metrics=changed)
    (runs[2] / "evaluate/manifest.json").unlink()
    html = html_of(runs)
    for text in ("0.9870", "pretrain.rate", "0.002"):
        assert text in html
    assert "pretrain.num_steps" not in html  # the same in all runs
    assert html.count("not run") >= 3  # run c has no scores
    assert html.count("no price given") == 3


def test_runs_with_the_same_name_are_shown_by_folder(tmp_path: Path) -> None:
    runs = [build_run(tmp_path / name, "same") for name in ("a", "b")]
    html = html_of(runs)
    assert str(runs[0]) in html
    assert "All settings are the same." in html


def test_more_than_six_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too-many-runs"):
        html_of([tmp_path] * 7)
