"""What `ttl report` does with a recipe, with run folders, and with --watch."""

import json

import pytest
from support.command_line import SMALL_RECIPE, log_of
from support.report_run import build_run, write_stage
from typer.testing import CliRunner

from teenytinyllama.cli.app import app
from teenytinyllama.errors import UserError
from teenytinyllama.stages.report import live_report


def invoke(*words, command="report"):
    done = CliRunner().invoke(app, [command, *map(str, words)])
    if done.exception is not None:
        raise done.exception


def test_run_folders_become_one_page(tmp_path):
    runs = [build_run(tmp_path / name, name) for name in ("a", "b")]
    out = tmp_path / "both.html"
    assert log_of("report", *runs, "--out", out) == f"Comparison written to {out}"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_each_comparison_has_a_page_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "x/a"):
        build_run(tmp_path / name, name.replace("/", "-"))
    assert log_of("report", "a", "b") == "Comparison written to comparison-a-b.html"
    assert log_of("report", "a", "c") == "Comparison written to comparison-a-c.html"
    assert log_of("report", "a") == "Report written to report-a.html"
    assert log_of("report", "a", "x/a").startswith("Comparison written to comparison-")
    invoke(*["b"] * 6)
    assert len(list(tmp_path.glob("*.html"))) == 5
    assert all(len(path.name) <= 105 for path in tmp_path.glob("*.html"))


def test_a_recipe_runs_the_stage(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL_RECIPE + "[report]\n")
    invoke(recipe, "--run-dir", tmp_path / "run")
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_watch_serves_the_run_of_the_recipe(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(live_report, "serve", lambda run_dir, port: served.append((run_dir, port)))
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL_RECIPE)
    invoke(recipe, "--watch", "--run-dir", tmp_path, "--port", "0")
    invoke(tmp_path, "--watch")
    monkeypatch.chdir(tmp_path)
    invoke(recipe, "--watch")
    assert [(str(folder), port) for folder, port in served] == [
        (str(tmp_path), 0),
        (str(tmp_path), 8808),
        ("runs/small", 8808),
    ]


def test_wrong_folders_are_one_error(tmp_path):
    with pytest.raises(UserError, match="watch-one"):
        invoke(tmp_path, tmp_path, "--watch")
    with pytest.raises(UserError, match=r"run-missing.*is not a run folder"):
        invoke(tmp_path, tmp_path / "none")
    with pytest.raises(UserError, match="report-unwritable"):
        invoke(build_run(tmp_path / "a", "a"), "--out", tmp_path / "none" / "x.html")


def test_signal_prints_a_table_and_writes_plots(tmp_path):
    run = build_run(tmp_path / "a", "a")
    tasks = {"arc": {"accuracy": 0.5, "chance": 0.25, "at_chance": False}}
    write_stage(run, "evaluate", metrics={"tasks": tasks})
    lines = [{"step": n, "arc_accuracy": n / 10} for n in range(5)]
    (run / "pretrain/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    done = CliRunner().invoke(app, ["evaluate", "--signal", str(run), "--out", str(run / "x.html")])
    assert done.exit_code == 0
    assert "train two more seeds" in done.output
    assert '<svg class="chart"' in (run / "x.html").read_text(encoding="utf-8")


def test_evaluate_takes_one_recipe():
    with pytest.raises(UserError, match="evaluate-one"):
        invoke("a.toml", "b.toml", command="evaluate")
