"""How a training is interrupted: by a signal, or because a disk hangs.

A stop signal only sets a flag: the step and its save come first. A watchdog ends a process that
hangs while it reads the rows of a micro-batch or writes a checkpoint; computing may take any time.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from teenytinyllama.errors import Interrupted
from teenytinyllama.progress import format_duration

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIMIT_S = 60.0
# The slowest disk that is not called dead.
MIN_BYTES_PER_S = 10e6
SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def stop_signals(note: Callable[[str], None]) -> Iterator[None]:
    """Pass the name of every stop signal to `note`, in place of what it would do."""

    def handle(number: int, frame: Any) -> None:
        note(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Watchdog:
    """One thread that counts how long the watched work has been going on.

    It counts its own looks and not the clock: a process that is stopped and continued (SIGSTOP, a
    closed laptop) was not hanging.
    """

    def __init__(
        self, *, limit_s: float = LIMIT_S, seconds_between_looks: float = SECONDS_BETWEEN_LOOKS
    ) -> None:
        self.limit_s, self.seconds_between_looks = limit_s, seconds_between_looks
        self._watched: tuple[str, float] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While inside, the thread looks."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    @contextmanager
    def over(self, what: str, *, num_bytes: int = 0) -> Iterator[None]:
        """Watch what is inside; `num_bytes` to move give it more time on a slow disk."""
        self._watched = (what, self.limit_s + num_bytes / MIN_BYTES_PER_S)
        try:
            yield
        finally:
            self._watched = None

    def _look(self) -> None:
        seen, num_looks = self._watched, 0
        while not self._over.wait(self.seconds_between_looks):
            watched = self._watched
            num_looks = num_looks + 1 if watched is seen else 0
            seen = watched
            if watched is not None and num_looks * self.seconds_between_looks >= watched[1]:
                _give_up(watched[0], watched[1])


def _give_up(what: str, seconds: float) -> None:
    """End the process where it hangs. Every file is whole or unseen at any moment: that is safe."""
    logger.info(f"{what} has taken more than {format_duration(seconds)}. It hangs here:")
    faulthandler.dump_traceback(file=2, all_threads=True)  # 2: stderr
    logger.info(str(Interrupted(f"{what} hangs; is the disk or the network folder still there?")))
    os._exit(Interrupted.exit_code)
