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

PATIENCE_S = 30.0


def interrupted(
    arguments: Sequence[object],
    number: signal.Signals,
    seconds: float,
    *,
    folder: Path | None = None,
) -> tuple[int | None, str]:
    """Exit code of `ttl`, signalled after some seconds, and what its terminal showed.

    Ctrl-C is typed, as people do, and reaches its children too. The code is None where it went on
    for half a minute.
    """
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
        if child.poll() is None:
            if number == signal.SIGINT:
                os.write(leader, b"\x03")
            else:
                child.send_signal(number)
        _read(child, leader, shown, until=time.monotonic() + PATIENCE_S)
        return child.poll(), shown.decode("utf-8", "replace")
    finally:
        child.kill()
        child.wait()
        os.close(leader)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


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
