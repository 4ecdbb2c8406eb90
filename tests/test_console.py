"""Log lines: secrets and control characters removed, levels kept, each line once."""

import io
import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from teenytinyllama import console

logger = logging.getLogger("teenytinyllama.of_a_test")


@pytest.fixture
def level():
    """Sets the level of the log for one test."""
    yield console.configure_logging
    console.configure_logging()


def test_lines_go_to_standard_error_once(capsys, level):
    level()
    level()
    logger.info("corpus: done")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "corpus: done\n")


def test_level_decides_what_is_logged(capsys, level):
    level(logging.WARNING)
    logger.info("detail")
    logger.warning("problem")
    assert capsys.readouterr().err == "problem\n"
    level(logging.DEBUG)
    logger.debug("detail")
    assert capsys.readouterr().err == "detail\n"


def test_secrets_and_control_characters_never_reach_the_log(capsys, level):
    level()
    token = "hf_" + "aB3" * 12
    logger.info(f"token {token} \x1b[2J \u202e end")
    line = capsys.readouterr().err
    assert token not in line
    assert "\\x1b[2J" in line
    assert "\\u202e" in line


def test_a_terminal_gets_a_long_line_whole(monkeypatch, level):
    level()
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    console.terminal.cache_clear()
    command = "ttl run " + "x" * 200 + " [bold]"
    logger.info(command)
    console.terminal.cache_clear()
    assert re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()) == command + "\n"


SPEAKER = """
import logging, sys
from teenytinyllama.console import configure_logging
from teenytinyllama.progress import Progress
configure_logging()
logging.getLogger("teenytinyllama").info("ready")
sys.stdin.readline()
with Progress("work", total=2) as work:
    work.advance()
    logging.getLogger("teenytinyllama").info("half")
sys.exit(75)
"""


@pytest.mark.parametrize("what", ["pipe", "terminal"])
def test_a_reader_that_leaves_changes_neither_the_work_nor_its_code(what):
    reading, writing = os.pipe() if what == "pipe" else pty.openpty()
    command = [sys.executable, "-c", SPEAKER]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=writing)
    os.close(writing)
    assert b"ready" in os.read(reading, 100)
    os.close(reading)
    child.communicate(b"go on\n", timeout=60)
    assert child.returncode == 75
