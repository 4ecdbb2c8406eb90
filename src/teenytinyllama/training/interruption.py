"""What ends a training whose disk or processes hang.

A watchdog ends a process that hangs while it reads the rows of a micro-batch or writes a
checkpoint. Computing may take any time where one process trains; where several wait for each other
in every step, a step may take `RANK_TIMEOUT_S`, and then all of them say where they are.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from teenytinyllama import process_group
from teenytinyllama.errors import Interrupted
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.progress import format_duration

logger = logging.getLogger(__name__)

LIMIT_S = 60.0
SECONDS_BETWEEN_CHECKS = 1.0
# The slowest disk that still counts as working.
MIN_BYTES_PER_S = 10e6
SECONDS_FOR_THE_OTHERS = 3.0


class Watchdog:
    """A thread that ends the process where watched work takes too long.

    It counts its own checks, not the clock's seconds: a process that was stopped and continued
    (SIGSTOP, a closed laptop) was not hanging.
    """

    def __init__(
        self, *, limit_s: float = LIMIT_S, seconds_between_checks: float = SECONDS_BETWEEN_CHECKS
    ) -> None:
        self.limit_s, self.seconds_between_checks = limit_s, seconds_between_checks
        self._watched: tuple[str, float] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, the thread checks."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._thread.join()

    @contextmanager
    def watch(
        self, what: str, *, num_bytes: int = 0, limit_s: float | None = None
    ) -> Iterator[None]:
        """Watch the work inside, called `what`; `num_bytes` to write give it more time."""
        around = self._watched
        limit_s = self.limit_s if limit_s is None else limit_s
        self._watched = (what, limit_s + num_bytes / MIN_BYTES_PER_S)
        try:
            yield
        finally:
            self._watched = around

    def watch_together(self, what: str, processes: ProcessGroup) -> AbstractContextManager[None]:
        """Watch work that no process can finish alone; with one process, not at all."""
        if processes.count == 1:
            return nullcontext()
        what = f"{what} on rank {processes.rank} of {processes.count}"
        return self.watch(what, limit_s=process_group.RANK_TIMEOUT_S)

    def _run(self) -> None:
        seen, num_checks = self._watched, 0
        while not self._stopped.wait(self.seconds_between_checks):
            watched = self._watched
            num_checks = num_checks + 1 if watched is seen else 0
            seen = watched
            if watched is not None and num_checks * self.seconds_between_checks >= watched[1]:
                _exit_hanging(watched[0], watched[1])


def _exit_hanging(what: str, seconds: float) -> None:
    """End the process where it hangs. This is safe: files are complete or invisible at any time."""
    logger.error(f"{what} has taken more than {format_duration(seconds)}. It hangs here:")
    faulthandler.dump_traceback(file=2, all_threads=True)  # 2: stderr
    lost = "the disk, the network folder or another process"
    logger.error(str(Interrupted(f"{what} hangs; is {lost} still there?")))
    if ProcessGroup().count > 1:
        # The launcher ends the others as soon as this one has ended: they speak first.
        time.sleep(SECONDS_FOR_THE_OTHERS)
    os._exit(Interrupted.exit_code)
