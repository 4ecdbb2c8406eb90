"""How a training is watched: the live view of a terminal, the lines elsewhere."""

import io
import re

import pytest
import torch
from support.tiny_training import settings

from teenytinyllama import console
from teenytinyllama.training import progress_display
from teenytinyllama.training.progress_display import ProgressDisplay, sparkline

CPU = torch.device("cpu")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def line(step, loss=3.0, **more):
    return {
        "step": step,
        "loss": loss,
        "tokens_per_s": 9012.0,
        "mfu": None,
        "share_of_measured_peak": 0.42,
        "energy_kwh": 0.002,
        **more,
    }


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets: `clock[0] = 70.0`."""
    now = [0.0]
    monkeypatch.setattr(progress_display.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal of so many columns; returns what was written to it."""

    def make(columns, term="xterm"):
        written = Terminal()
        monkeypatch.setattr("sys.stderr", written)
        for name, value in (("COLUMNS", str(columns)), ("LINES", "30"), ("TERM", term)):
            monkeypatch.setenv(name, value)
        console.terminal.cache_clear()
        return written

    yield make
    console.terminal.cache_clear()


def last_view(written):
    """The lines of the last view, without what moves the cursor."""
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)
    return [
        row.rstrip() for row in plain[plain.rindex("  pretrain ") :].splitlines() if row.strip()
    ]


def test_off_a_terminal_there_is_at_most_a_line_a_minute(clock, tmp_path, capsys):
    display = ProgressDisplay(tmp_path, settings(num_steps=200), CPU, is_main=True)
    for step in range(1, 201):  # one a second, logged every tenth
        clock[0] = float(step)
        is_logged = step % 10 == 0
        display.show_step(step, clock[0], 200.0 - step, is_logged=is_logged)
        if is_logged:
            display.show_line(line(step, heldout_bpb=2.0), is_last=step == 200)
    display.close()
    said = capsys.readouterr().err.splitlines()
    steps = [int(re.search(r"step (\d+)/200", text)[1]) for text in said]
    assert steps == [10, 70, 130, 190, 200]
    assert said[1] == (
        "  step 70/200, loss 3.000, held-out 2.0000 bits/byte, 9,012 tokens/s, "
        "42% of the measured peak, 2 Wh, 2 min 10 s left"
    )


def test_slow_steps_print_a_short_line(clock, tmp_path, capsys):
    display = ProgressDisplay(tmp_path, settings(num_steps=4), CPU, is_main=True)
    display.show_step(1, 45.0, 135.0, is_logged=False)
    clock[0] = 45.0
    display.show_step(1, 45.0, 135.0, is_logged=False)
    assert capsys.readouterr().err == (
        "  step 1/4, 2 min 15 s left (loss and speed are shown every 3 steps)\n"
    )


def test_other_processes_say_nothing(clock, tmp_path, capsys):
    clock[0] = 1000.0
    display = ProgressDisplay(tmp_path, settings(), CPU, is_main=False)
    display.show_step(1, 1.0, 1.0, is_logged=True)
    display.show_line(line(1), is_last=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_gets_one_view_that_fits(columns, terminal, tmp_path):
    folder = tmp_path / "pretrain"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 4, "loss": 9.0}\n{"step": 5, "lo')
    written = terminal(columns)
    run = settings(num_steps=40, evaluate_every_steps=16, usd_per_gpu_hour=2.0)
    display = ProgressDisplay(folder, run, CPU, is_main=True)
    display.show_step(9, 3600.0, 1800.0, is_logged=True)
    display.show_line(line(9, loss=5.0), is_last=False)
    display.show_step(10, 3600.0, 10_800.0, is_logged=True)
    display.show_line(line(10, loss=4.0, heldout_bpb=2.5), is_last=False)
    display.show_sample([{"prompt": "Era uma vez", "text": " um\ngato \x1b[2J."}])
    display.close()
    view = last_view(written.getvalue())
    assert max(map(len, view)) <= columns
    rows = {row[:14].strip(): row[14:] for row in view}
    assert rows["loss"] == "4.000 ██▁"  # the session before is on the curve, a cut line is not
    assert rows["held-out"].startswith("2.5000 bits/byte ▁")
    assert rows["so far"] == "2 Wh, $2.00, 1 h 00 min"
    assert rows["at the end"] == "8 Wh, $8.00, 4 h 00 min"
    assert rows["evaluates"] == "at step 16, in 36 min 00 s"
    assert rows["sample"].startswith("Era uma vez um gato \\x1b[2")
    assert rows["pretrain"].startswith("step 10/40, 25%, 3 h 00")


def test_steps_that_were_rolled_back_leave_the_curve(terminal, tmp_path):
    written = terminal(80)
    display = ProgressDisplay(tmp_path / "pretrain", settings(num_steps=40), CPU, is_main=True)
    for step, loss in ((1, 8.0), (2, 9.0), (3, 99.0), (2, 4.0)):
        display.show_step(step, 1.0, 1.0, is_logged=True)
        display.show_line(line(step, loss=loss), is_last=False)
    display.close()
    assert any("4.000 █▁" in row for row in last_view(written.getvalue()))


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal, tmp_path):
    written = terminal(80, term="dumb")
    display = ProgressDisplay(tmp_path, settings(num_steps=4), CPU, is_main=True)
    display.show_step(4, 1.0, 0.0, is_logged=True)
    display.show_line(line(4), is_last=True)
    display.close()
    assert written.getvalue().startswith("  step 4/4, loss 3.000, 9,012 tokens/s")


def test_a_curve_keeps_its_shape_beside_high_first_values():
    assert sparkline([100.0, *range(20, 0, -1)], 21)[-3:] == "▂▁▁"
    assert len(sparkline(list(range(1000)), 30)) == 30
