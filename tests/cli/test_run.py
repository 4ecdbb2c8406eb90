"""Wrong input of `ttl run` and of a stage: one line, exit code 2, nothing half-written."""

import fcntl
import logging
import os
import sys
from pathlib import Path

import pytest
from support.command_line import RECIPE, SMALL_RECIPE, log_of, ttl

from teenytinyllama.cli import run
from teenytinyllama.cli.common import RunOptions


def test_a_misspelt_key_is_one_line_and_code_2(tmp_path):
    said = log_of("run", RECIPE, "--run-dir", tmp_path, "--set", "pretrain.num_stps=3", code=2)
    assert said == (
        "error[recipe-unknown-key] --set pretrain.num_stps - unknown setting, "
        'got "num_stps" - fix: did you mean "num_steps"?'
    )
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_wrong_type_is_one_line_and_code_2(tmp_path):
    said = log_of("run", RECIPE, "--run-dir", tmp_path, "--set", 'pretrain.seed="a"', code=2)
    assert said.startswith("error[recipe-value] --set pretrain.seed - input should be a valid int")


def test_a_missing_recipe_and_a_missing_source(tmp_path):
    assert log_of("run", tmp_path / "no.toml", code=2).startswith("error[recipe-missing]")
    sources = "corpus.sources=[{ kind = 'files', path = 'nowhere/*.txt', license = 'CC0-1.0' }]"
    said = log_of("corpus", RECIPE, "--run-dir", tmp_path, "--set", sources, code=2)
    assert "nowhere/*.txt" in said.splitlines()[-1]


def test_an_empty_corpus_names_what_emptied_it(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"short-{name}.txt").write_text(f"Oi, {name}.\n")
    source = f"{{ kind = 'files', path = '{tmp_path}/short-*.txt', license = 'CC0-1.0' }}"
    sources = f"corpus.sources=[{source}]"
    said = log_of("corpus", RECIPE, "--run-dir", tmp_path / "run", "--set", sources, code=2)
    assert "0 documents remain" in said.splitlines()[-1]


def test_a_stage_before_the_stage_it_needs(tmp_path):
    said = log_of("pack", RECIPE, "--run-dir", tmp_path, code=2)
    assert said.startswith("error[stage-not-run] ttl pack - reads corpus/manifest.json")
    assert said.endswith(f"fix: run `ttl corpus {RECIPE} --run-dir {tmp_path}` first")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    said = log_of("corpus", RECIPE, "--run-dir", tmp_path / "run", code=2)
    assert said.startswith("error[folder-unwritable]")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    said = log_of("corpus", RECIPE, "--run-dir", tmp_path / "file" / "run", code=2)
    assert said.startswith("error[folder-unwritable]")
    assert said.endswith("fix: choose a folder of yours with --run-dir")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody may write in")
def test_a_folder_that_not_even_root_may_write_in():
    said = log_of("pretrain", RECIPE, "--run-dir", "/proc/run", code=2)
    assert said.startswith("error[folder-unwritable] /proc/run - cannot be written")


def test_a_busy_run_is_named(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        lock.write("process 7 on laptop\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = log_of("corpus", RECIPE, "--run-dir", tmp_path, code=2)
    assert "another ttl is using this folder (process 7 on laptop)" in said


def test_a_stage_that_the_recipe_does_not_name(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text('name = "small"\n[corpus]\nsources = [{ kind = "storybook" }]\n')
    said = log_of("align", recipe, "--run-dir", tmp_path / "run", code=2)
    assert said.startswith("error[stage-not-in-recipe]")


def test_a_recipe_without_a_report_promises_none(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL_RECIPE)
    said = log_of("run", str(recipe), "--run-dir", str(tmp_path / "run"), code=0)
    assert "A [report] in the recipe makes its page." in said
    assert "index.html" not in said


def test_shipped_recipes_are_listed_shown_and_run_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = [line.split()[0] for line in ttl("recipes").stdout.splitlines() if line][:-1]
    assert listed == sorted(path.stem for path in RECIPE.parent.glob("*.toml"))
    text = ttl("recipes", "show", "quickstart").stdout
    assert text == RECIPE.read_text(encoding="utf-8")
    assert log_of("check", "quickstart").endswith("Next: ttl run quickstart")
    (tmp_path / "mine.toml").write_text(text.replace("vocab_size = 2048", "vocab_size = 1"))
    assert "mine.toml:9:tokenizer.vocab_size" in log_of("check", "mine.toml", code=2)


def test_a_file_goes_before_a_shipped_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("name = 1\n")
    assert log_of("check", "quickstart", code=2).startswith("error[recipe-value] quickstart:1:name")


def test_a_shipped_recipe_that_does_not_exist_names_those_that_do():
    assert "one of: best-160m," in log_of("recipes", "show", "x", code=2)
    assert log_of("recipes", "paper-160m", code=2).endswith("fix: ttl recipes show quickstart")
    assert 'did you mean "quickstart"' in log_of("run", "quick-start", code=2)


def test_quickstart_runs_the_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = "corpus.sources=[{ kind = 'storybook', num_documents = 3, license = 'Apache-2.0' }]"
    assert "vocabulary-too-large" in log_of("quickstart", "--set", few, code=2)
    assert (tmp_path / "runs" / "quickstart" / "corpus" / "manifest.json").is_file()


@pytest.mark.parametrize("started", [".venv/bin/ttl", "/a/b/ttl", "/a/cli/__main__.py"])
def test_quickstart_ends_with_how_to_chat(started, monkeypatch, caplog):
    monkeypatch.setattr(run, "run_stages", lambda recipe, options: options.run_dir)
    monkeypatch.setattr(sys, "argv", [started])
    with caplog.at_level(logging.INFO):
        run.quickstart_command(RunOptions(run_dir=Path("my runs")))
    command = started if started.endswith("ttl") else "ttl"
    assert caplog.messages[-1] == f"Talk to your model: {command} chat 'my runs'"
