"""Ctrl-C, SIGTERM and SIGHUP end every command with one line and a code, whenever they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import SMALL_RECIPE
from support.terminal import interrupted

from teenytinyllama import signals

INSTALLED = "import os, signal, sys, time; from teenytinyllama import signals; "


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{INSTALLED}signals.install({list(arguments)}); {code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_taken_signal_is_noted_and_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    noted: list[str] = []
    with signals.taken(noted.append):
        os.kill(os.getpid(), number)
    assert noted == [number.name]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "name"), [("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM")])
def test_one_line_and_code_75_that_no_library_can_swallow(number: str, name: str) -> None:
    swallow = f"""
try:
    os.kill(os.getpid(), signal.{number})
    time.sleep(9)
except BaseException:
    pass
"""
    done = run(swallow, "corpus", "r.toml")
    assert done.returncode == 75
    assert done.stderr == f"stopped: {name}. Run the same command again to resume.\n"


def test_the_advice_after_redo_resumes() -> None:
    done = run("os.kill(os.getpid(), signal.SIGHUP)", "pretrain", "r.toml", "--redo")
    assert done.stderr == "stopped: SIGHUP. Run the same command without --redo to resume.\n"


@pytest.mark.parametrize("arguments", [("serve", "x"), ("chat", "x"), ("report", "x", "--watch")])
def test_what_lasts_until_it_is_stopped_ends_well(arguments: tuple[str, ...]) -> None:
    done = run("os.kill(os.getpid(), signal.SIGTERM)", *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_finished_command_keeps_its_code() -> None:
    done = run("signals.finish(2); os.kill(os.getpid(), signal.SIGTERM)", "corpus")
    assert (done.returncode, done.stderr) == (2, "")


def test_nor_does_the_end_of_the_interpreter() -> None:
    late = "class Late:\n def __del__(self, kill=os.kill, pid=os.getpid()): kill(pid, 15)\n"
    done = run(
        "sys.late = Late()\nsignals.finish(2)\nsys.exit(2)".replace(
            "sys.late", f"exec({late!r})\nsys.late"
        )
    )
    assert (done.returncode, done.stderr) == (2, "")


def test_nohup_is_respected() -> None:
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code = f"{INSTALLED}{ignored}signals.install(['run']); "
    code += "noted = []\nwith signals.taken(noted.append): os.kill(os.getpid(), signal.SIGHUP)\n"
    code += "os.kill(os.getpid(), signal.SIGHUP); print(noted)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_a_worker_that_is_ended_does_not_end_its_parent() -> None:
    code = """
child = os.fork()
if not child:
    time.sleep(30)
time.sleep(0.2); os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
time.sleep(2.5)
"""
    done = run(code, "corpus")
    assert (done.returncode, done.stdout, done.stderr) == (0, "75\n", "")


def test_a_long_call_into_a_library_does_not_keep_it() -> None:
    # Python's own handler waits for the end of the call, which never comes.
    code = """
import hashlib, threading
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)
"""
    started = time.monotonic()
    done = run(code, "run")
    assert done.returncode == 75
    assert done.stderr.startswith("stopped: SIGTERM")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("seconds", "number"), [(0.5, signal.SIGINT), (1.0, signal.SIGTERM), (1.5, signal.SIGHUP)]
)
def test_in_a_terminal_while_a_stage_starts(
    seconds: float, number: signal.Signals, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(SMALL_RECIPE.replace("40", "400000"))
    arguments = ("corpus", recipe, "--run-dir", tmp_path / "run")
    code, shown, was_started = interrupted(arguments, number, seconds)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    if not was_started:  # the machine is very slow
        assert code == -number
        return
    assert code == 75, shown
    assert shown.rstrip().endswith(f"stopped: {name}. Run the same command again to resume.")
    assert "Traceback" not in shown
