"""Wrong input of `ttl run` and of a stage: one line, exit code 2, nothing half-written."""

import fcntl
import os
from pathlib import Path

import pytest
from support.command_line import RECIPE, SMALL_RECIPE, log_of


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
