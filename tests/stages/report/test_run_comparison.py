from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.report_run import METRICS, build_run, write_stage

from teenytinyllama.errors import UserError
from teenytinyllama.stages.report.report_page import html_of
from teenytinyllama.stages.report.run_comparison import compare_page


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


def scored(folder: Path, name: str, value: float, text: str | None) -> Path:
    run = build_run(folder, name)
    changed = {**METRICS["evaluate"], "heldout_bits_per_byte": value, "heldout_text": text}
    write_stage(run, "evaluate", metrics=changed)
    return run


def test_best_of_runs_with_the_same_held_out_text(tmp_path: Path) -> None:
    runs = [scored(tmp_path / name, name, value, "t") for name, value in (("a", 1.9), ("b", 1.2))]
    page = compare_page(runs)
    best = page.headline.items[1]
    assert (best.text, best.note, best.tone) == ("1.2000", "b", "")
    assert "do not rank them" not in html_of(runs)


@pytest.mark.parametrize("texts", [("t", "u"), ("t", None), (None, None)])
def test_runs_with_other_held_out_texts_are_not_ranked(
    tmp_path: Path, texts: tuple[str | None, str | None]
) -> None:
    runs = [scored(tmp_path / n, n, 1.5, t) for n, t in zip("ab", texts, strict=True)]
    best = compare_page(runs).headline.items[1]
    assert (best.text, best.tone) == ("not ranked", "warn")
    assert "bits per byte and perplexities are of different texts" in html_of(runs)
    assert "bits per byte always is" not in html_of(runs)


def test_long_values_and_names_wrap(tmp_path: Path) -> None:
    """What does not wrap makes six runs wider than a screen."""
    name = "n" * 40
    long = scored(tmp_path / "a", name, 1.5, "t")
    recipe = json.loads((long / "run.json").read_text())
    recipe["recipe"]["pretrain"] = {"why": "x" * 70}
    (long / "run.json").write_text(json.dumps(recipe))
    html = html_of([long, scored(tmp_path / "b", "b", 1.5, "t")])
    value = "&#34;" + "x" * 70 + "&#34;"
    assert f'<td class="n long ">{value}</td>' in html
    assert "thead th{overflow-wrap:anywhere" in html


def test_runs_with_the_same_name_are_shown_by_folder(tmp_path: Path) -> None:
    runs = [build_run(tmp_path / name, "same") for name in ("a", "b")]
    html = html_of(runs)
    assert str(runs[0]) in html
    assert "All settings are the same." in html


def test_more_than_six_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too-many-runs"):
        html_of([tmp_path] * 7)
