"""What belongs to no command: the level of the log, errors and exit codes."""

import subprocess
import sys

import pytest
from support.command_line import RECIPE, SMALL_RECIPE, log_of, ttl

from teenytinyllama.errors import Interrupted, UserError, did_you_mean, missing_extra


def test_an_unknown_command_and_an_unknown_option():
    assert log_of("corpsu", RECIPE, code=2).startswith("error[usage]")
    said = log_of("run", RECIPE, "--redoo", code=2)
    assert said.startswith("error[usage] ttl run - ")
    assert said.endswith(" - fix: ttl run --help")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Arguments of a finished run, which is then skipped."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.toml").write_text(SMALL_RECIPE)
    arguments = ("corpus", folder / "small.toml", "--run-dir", folder / "run")
    ttl(*arguments)
    return arguments


def test_quiet_logs_warnings_only(small_run):
    assert log_of(*small_run) == "corpus: unchanged, skipped"
    assert log_of(*small_run, "--quiet") == ""
    shard = next((small_run[-1] / "corpus").glob("train-*.zst"))
    shard.unlink()
    assert log_of(*small_run, "--quiet") == (
        f"corpus: {shard.name} is missing or changed; running again"
    )


def test_verbose_logs_details(small_run):
    lines = log_of(*small_run, "--verbose").splitlines()
    assert lines[-1] == "corpus: unchanged, skipped"
    assert lines[0].startswith("corpus: fingerprint ")


def test_quiet_and_verbose_exclude_each_other(small_run):
    assert log_of(*small_run, "--quiet", "--verbose", code=2).startswith("error[log-level]")


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "teenytinyllama.cli", "run", "no.toml", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "error[recipe-missing]" in done.stderr.splitlines()[-1]


def test_an_error_is_one_line_with_a_next_step():
    error = UserError("gpu-unknown", "--gpu", 'no GPU "gtx"', "use one of: cpu")
    assert str(error) == 'error[gpu-unknown] --gpu - no GPU "gtx" - fix: use one of: cpu'
    assert error.exit_code == 2
    assert (error.code, error.where) == ("gpu-unknown", "--gpu")


def test_a_path_that_cannot_be_one_is_an_error(tmp_path):
    recipe = tmp_path / "r.toml"
    files = f'kind = "files", path = "{"a" * 5000}"'
    recipe.write_text(SMALL_RECIPE.replace('kind = "storybook"', files))
    log = log_of("corpus", recipe, "--run-dir", tmp_path / "run", code=2)
    assert log.count("error[path-unusable]") == 1 and len(log) < 500


def test_interrupted_work_is_resumable():
    error = Interrupted("SIGTERM")
    assert str(error) == "stopped: SIGTERM. Run the same command again to resume."
    assert error.exit_code == 75


def test_a_missing_library_names_its_extra():
    error = missing_extra("peft", "lora")
    assert error.fix == "pip install 'teenytinyllama[lora]'"
    with pytest.raises(ImportError):
        raise error


def test_a_far_word_lists_the_known_ones():
    assert did_you_mean("sed", ["seed", "steps"]) == 'did you mean "seed"?'
    assert did_you_mean("colour", ["seed", "steps"]) == "use one of: seed, steps"
