"""Notices that other programs hold the processors that a training on a CPU counts on.

PyTorch's threads meet after every operator. While another program has the core of one, the others
wait for it, and hold their own cores while they do: one busy program beside two threads costs nine
tenths of the speed, not a third. Threads that wait as `REMEDY` says keep two fifths of it, and lose
a sixth on a quiet machine, which is why they are not the rule (EXPERIMENTS.md).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


SECONDS_BETWEEN_LOOKS = 5.0
MOST_WAITED = 0.1
REMEDY = "GOMP_SPINCOUNT=2500"


class Contention:
    """Watches how long this process's threads are ready to work and no core is free (Linux)."""

    def __init__(self, device: torch.device, tasks: Path = Path("/proc/self/task")) -> None:
        self._num_threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._tasks = tasks
        is_set = any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"))
        self._is_silent = self._num_threads == 1 or is_set
        self._passed_s = self._waited_s = 0.0

    def waited_s(self) -> float:
        """Seconds so far, over all threads; 0 where the system does not count it."""
        if self._is_silent:
            return 0.0
        nanoseconds = 0
        for thread in self._tasks.glob("*/schedstat"):
            try:
                nanoseconds += int(thread.read_text(encoding="ascii").split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended since it was listed
        return nanoseconds / 1e9

    def look(self, passed_s: float, waited_s: float) -> None:
        """Take in that threads waited `waited_s` of `passed_s`; say so where it is much, once."""
        self._passed_s += passed_s
        self._waited_s += max(0.0, waited_s)
        if self._is_silent or self._passed_s < SECONDS_BETWEEN_LOOKS:
            return
        share = self._waited_s / (self._passed_s * self._num_threads)
        self._passed_s = self._waited_s = 0.0
        if share > MOST_WAITED:
            self._is_silent = True
            logger.info(
                f"other programs hold the processors {share:.0%} of the time, which slows training"
                f" far more than that; Ctrl-C and the same command after {REMEDY} goes on sooner,"
                " to the same bits"
            )
