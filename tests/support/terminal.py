"""`ttl` in a terminal of its own that gets a signal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 30.0


class Ended(NamedTuple):
    """How a `ttl` that got a signal ended."""

    code: int | None
    """None where it went on for half a minute."""
    shown: str
    was_started: bool
    """Whether a line of ours had run when the signal came: before, it is the system's."""


def interrupted(
    arguments: Sequence[object],
    number: signal.Signals,
    seconds: float,
    *,
    folder: Path | None = None,
) -> Ended:
    """Signal a `ttl` after some seconds. Ctrl-C is typed, as people do: its children get it too."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "teenytinyllama.cli", *map(str, arguments)],
        stdin=follower, stdout=follower, stderr=follower, cwd=folder, start_new_session=True,
        preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(follower)
    shown = bytearray()
    try:
        _read(child, leader, shown, until=time.monotonic() + seconds)
        was_started = _catches_signals(child.pid)
        if child.poll() is None:
            if number == signal.SIGINT:
                os.write(leader, b"\x03")
            else:
                child.send_signal(number)
        _read(child, leader, shown, until=time.monotonic() + PATIENCE_S)
        return Ended(child.poll(), shown.decode("utf-8", "replace"), was_started)
    finally:
        child.kill()
        child.wait()
        os.close(leader)


def _catches_signals(pid: int) -> bool:
    """Whether it has a handler for SIGTERM, which Python alone has not; True where unknown."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return True
    for line in status.read_text(encoding="ascii").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return True  # it has ended and is not reaped yet


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored where this test is in the background
        signal.signal(number, signal.SIG_DFL)


def _read(child: subprocess.Popen[bytes], leader: int, shown: bytearray, *, until: float) -> None:
    """Read the terminal until then, or until the process has ended and all is read."""
    while (now := time.monotonic()) < until:
        has_ended = child.poll() is not None
        if select.select([leader], [], [], 0 if has_ended else min(0.02, until - now))[0]:
            try:
                shown += os.read(leader, 65536)
            except OSError:  # the process has closed it
                child.wait(max(until - time.monotonic(), 0.1))
                return
        elif has_ended:
            return
