"""OpenMP threads that sleep, not spin, while other programs use the cores.

PyTorch's threads meet after every operator, and the one that comes first spins for 300,000 rounds
(about 10 ms) before it sleeps. On a quiet machine that is the fastest way to wait. Beside another
program the spinning thread holds the very core that the late one needs: one busy program beside
two threads costs nineteen twentieths of the speed (EXPERIMENTS.md).

libgomp, the OpenMP of PyTorch on Linux, spins 100 rounds only where it manages more threads than
there are cores. `watch` makes it so for as long as this process's threads wait for a core: a
team of threads is started that sleeps until the cores are free again. Which thread computes what
stays the same, and so does every bit of the results.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)

THREADS = Path("/proc/self/task")
SECONDS_BETWEEN_CHECKS = 1.0
# Seconds that all threads together wait for a core, in a second: 0.01 on a quiet machine, about 1
# with one busy program beside two threads, spinning or not.
CROWDED = 0.2
FREE = 0.05
CHECKS_UNTIL_FREE = 5
# Who chooses how threads wait is left alone.
CHOSEN_BY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def watch() -> None:
    """Watch this process's threads until it ends, where the system counts how long they wait."""
    if not any(THREADS.glob("*/schedstat")) or any(name in os.environ for name in CHOSEN_BY):
        return
    if any(thread.name == "openmp" for thread in threading.enumerate()):
        return
    threading.Thread(target=_watch, name="openmp", daemon=True).start()


def _watch() -> None:
    watcher = Watcher()
    passed, waited = time.monotonic(), waited_s()
    while True:
        time.sleep(SECONDS_BETWEEN_CHECKS)
        now, waited_now = time.monotonic(), waited_s()
        watcher.record(max(0.0, waited_now - waited) / (now - passed))
        passed, waited = now, waited_now


def waited_s(threads: Path = THREADS) -> float:
    """Seconds that the threads of this process were ready to run and had no core, added up."""
    nanoseconds = 0
    for thread in threads.glob("*/schedstat"):
        try:
            nanoseconds += int(thread.read_text(encoding="ascii").split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended since it was listed
    return nanoseconds / 1e9


class Watcher:
    """Decides from the waiting of each second whether threads spin or sleep."""

    def __init__(self) -> None:
        self.sleepers: Sleepers | None = None
        self._num_free = 0

    def record(self, waited_per_s: float) -> None:
        """Take one measurement: seconds that threads waited for a core, in a second."""
        self._num_free = self._num_free + 1 if waited_per_s < FREE else 0
        library = openmp_library()
        if library is None or library.omp_get_max_threads() == 1:
            return
        if waited_per_s > CROWDED and self.sleepers is None:
            self.sleepers = Sleepers(library)
            logger.debug(f"threads wait {waited_per_s:.2f} s a second for a core: they sleep now")
        elif self._num_free >= CHECKS_UNTIL_FREE and self.sleepers is not None:
            self.sleepers.end()
            self.sleepers = None
            logger.debug("cores are free again: threads spin")


class Sleepers:
    """A team of one thread more than there are cores; it sleeps until `end`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._ended = threading.Event()
        # OpenMP keeps a team for the thread that started it, and ends the team with that thread.
        self._leader = threading.Thread(target=self._lead, name="openmp-sleepers", daemon=True)
        self._leader.start()

    def _lead(self) -> None:
        library = self._library
        # Any function without effect does for the work of the team.
        nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
        library.GOMP_parallel(nothing, None, library.omp_get_num_procs() + 1, 0)
        self._ended.wait()

    def end(self) -> None:
        """End the team."""
        self._ended.set()
        self._leader.join()


def openmp_library() -> ctypes.CDLL | None:
    """GNU's OpenMP that PyTorch computes with; None where it has another one or is not loaded."""
    torch = sys.modules.get("torch._C")
    if torch is None or torch.__file__ is None:
        return None
    library = ctypes.CDLL(torch.__file__)  # a symbol is looked for in what it links to as well
    return library if hasattr(library, "GOMP_parallel") else None
