"""What a training has used, counted over all its sessions: seconds, energy, and the rate."""

from __future__ import annotations

import time

from teenytinyllama.energy import Energy, EnergyMeter
from teenytinyllama.training.contention import Contention
from teenytinyllama.training.saving import Progress

SECONDS_BETWEEN_READINGS = 10.0


class Spending:
    """Clock and meter of one session, added to what earlier sessions left in the checkpoint."""

    def __init__(self, meter: EnergyMeter, contention: Contention) -> None:
        self._meter, self._contention = meter, contention
        self.best_tokens_per_s = 0.0
        self._read_at = 0.0

    def begin(self, progress: Progress, *, energy: Energy, seconds: float) -> None:
        """Count from now on, on top of `energy` and `seconds`."""
        self._energy_zero = self._meter.read()
        self._energy_before, self._seconds_before = energy, seconds
        self._first_step = progress.step
        self._started = time.monotonic()
        self._tokens = progress.tokens
        self.pause_over()

    def pause_over(self) -> None:
        """What went before (an evaluation, samples, a save) is not training time."""
        self._rated_at = time.monotonic()
        self._waited = self._contention.waited_seconds()

    def update(self, progress: Progress, *, now: bool = True) -> None:
        """Bring energy and seconds up to date; a reading costs 0.1 s, so a log line may be late."""
        progress.seconds = self._seconds_before + time.monotonic() - self._started
        if not now and time.monotonic() - self._read_at < SECONDS_BETWEEN_READINGS:
            return
        used = self._meter.read().since(self._energy_zero)
        self._read_at = time.monotonic()
        progress.energy = Energy(*(a + b for a, b in zip(self._energy_before, used, strict=True)))

    def rate(self, progress: Progress, now: float) -> float:
        """Tokens per second since the last call, pauses left out."""
        passed = max(now - self._rated_at, 1e-9)
        tokens_per_s = (progress.tokens - self._tokens) / passed
        self._tokens = progress.tokens
        self.best_tokens_per_s = max(self.best_tokens_per_s, tokens_per_s)
        self._contention.look(passed, self._contention.waited_seconds() - self._waited)
        return tokens_per_s

    def seconds_left(self, progress: Progress, num_steps: int) -> float:
        """At the pace of this session."""
        share = (progress.step - self._first_step) / (num_steps - self._first_step)
        return (time.monotonic() - self._started) * (1 - share) / share
