"""Notice that other programs use the cores that a training run on a CPU counts on.

PyTorch's threads meet after every operator. While another program has the core of one thread, the
others wait for it and keep their own cores busy: one busy program beside two threads costs nine
tenths of the speed, not a third. Threads that wait as `REMEDY` says keep two fifths of it, and lose
a sixth on a quiet machine, which is why they are not the default (EXPERIMENTS.md).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKS = 5.0
MAX_WAITING_SHARE = 0.1
REMEDY = "GOMP_SPINCOUNT=2500"


class ContentionMonitor:
    """Measures how long this process's threads are ready to run and no core is free (Linux)."""

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._num_threads = torch.get_num_threads()
        self._tasks = tasks
        is_set = any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"))
        self._is_silent = self._num_threads == 1 or is_set
        self._passed_s = self._waited_s = 0.0

    def waited_s(self) -> float:
        """Seconds waited so far, over all threads; 0 where the system does not count them."""
        if self._is_silent:
            return 0.0
        nanoseconds = 0
        for thread in self._tasks.glob("*/schedstat"):
            try:
                nanoseconds += int(thread.read_text(encoding="ascii").split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended since it was listed
        return nanoseconds / 1e9

    def record(self, passed_s: float, waited_s: float) -> None:
        """Add `waited_s`, over all threads, of `passed_s`; warn once when the share is high."""
        self._passed_s += passed_s
        self._waited_s += max(0.0, waited_s)
        if self._is_silent or self._passed_s < SECONDS_BETWEEN_CHECKS:
            return
        share = self._waited_s / (self._passed_s * self._num_threads)
        self._passed_s = self._waited_s = 0.0
        if share > MAX_WAITING_SHARE:
            self._is_silent = True
            logger.warning(
                f"other programs use this run's CPU cores {share:.0%} of the time, which slows"
                " training far more than that; to resume faster, with the same result: Ctrl-C,"
                f" then the same command after {REMEDY}"
            )
