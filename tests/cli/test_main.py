"""What belongs to no command: help, version, usage errors, the level of the log."""

import subprocess
import sys

import pytest
from support.command_line import RECIPE, SMALL_RECIPE, log_of, ttl

from teenytinyllama import __version__


def test_bare_command_shows_the_help():
    done = ttl()
    assert "Usage:" in done.stdout
    assert "pretrain" in done.stdout
    assert done.stderr == ""
    assert done.stdout == ttl("--help").stdout


def test_version():
    assert ttl("--version").stdout == f"ttl {__version__}\n"


def test_an_unknown_command_and_an_unknown_option():
    assert log_of("corpsu", RECIPE, code=2).startswith("error[usage]")
    assert log_of("run", RECIPE, "--redoo", code=2).startswith("error[usage]")


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
