"""Progress off a terminal: few lines, with rate and time left."""

import io
import logging

import pytest

from teenytinyllama import console, progress
from teenytinyllama.progress import Progress, format_duration


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the clock, for a test to move on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_at_most_every_ten_seconds_and_one_at_the_end(clock, capsys):
    with Progress("pack: encode", total=200, unit="documents") as work:
        for _ in range(4):
            clock[0] += 6
            work.advance(50)
    assert capsys.readouterr().err.splitlines() == [
        "pack: encode: 100/200 documents (8.3/s), 12.0 s left",
        "pack: encode: 200/200 documents (8.3/s), 0.0 s left",
        "pack: encode: 200/200 documents (8.3/s), done in 24.0 s",
    ]


def test_few_megabytes_are_shown_in_kilobytes(clock, capsys):
    with Progress("corpus: read", total=0.25, unit="MB") as work:
        clock[0] += 2
        work.advance(0.25)
    assert capsys.readouterr().err == "corpus: read: 250/250 kB (125.0/s), done in 2.0 s\n"


def test_many_megabytes_stay_megabytes_and_a_note_is_shown(clock, capsys):
    with Progress("corpus: read", unit="MB") as work:
        clock[0] += 2
        work.advance(20, "3 duplicates")
    expected = "corpus: read: 20 MB (10.0/s) 3 duplicates, done in 2.0 s\n"
    assert capsys.readouterr().err == expected


def test_failed_work_is_not_called_done(clock, capsys):
    with pytest.raises(KeyError), Progress("pack: encode", unit="documents"):
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("level", "has_bar"), [(logging.INFO, True), (logging.WARNING, False)])
def test_a_terminal_shows_a_bar_unless_quiet(monkeypatch, level, has_bar):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    console.terminal.cache_clear()
    console.configure_logging(level)
    try:
        with Progress("pack: encode", total=2, unit="documents") as work:
            work.advance(2)
    finally:
        console.configure_logging()
        console.terminal.cache_clear()
    assert ("pack: encode" in terminal.getvalue()) is has_bar


def test_durations_are_readable():
    durations = [format_duration(seconds) for seconds in (0.04, 59.96, 61, 3600, 90061)]
    assert durations == ["0.0 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "25 h 01 min"]
