"""What a run has used over all its sessions: seconds, energy, and its tokens per second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from teenytinyllama.energy import Energy, EnergyMeter, total_energy
from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.training.train_state import TrainState

SECONDS_BETWEEN_READINGS = 10.0


class ResourceTracker:
    """Clock and meter of one session, added to what the checkpoint has of earlier ones."""

    def __init__(self, meter: EnergyMeter, processes: ProcessGroup = ALONE) -> None:
        self._meter, self._processes = meter, processes
        self.best_tokens_per_s = 0.0
        self._read_at = 0.0

    def begin(self, state: TrainState, *, energy: Energy, seconds: float) -> None:
        """Count from now on, on top of `energy` and `seconds`."""
        self._energy_zero = self._read()
        self._used = Energy()
        self._energy_before, self._seconds_before = energy, seconds
        self._first_step = state.step
        self._started = time.monotonic()
        self._tokens = state.tokens
        self._trained_s = 0.0  # since the last rate
        self._resumed_at = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count for the rate: an evaluation, samples, a save, a log line."""
        self._trained_s += time.monotonic() - self._resumed_at
        try:
            yield
        finally:
            self._resumed_at = time.monotonic()

    def update(self, state: TrainState, *, now: bool = True) -> None:
        """Bring seconds and energy of `state` up to date.

        A reading of the meter costs 0.1 s: unless it must be `now`, there is one every ten seconds.
        Energy is that of all machines; all processes must call this.
        """
        state.seconds = self.seconds()
        if now or time.monotonic() - self._read_at >= SECONDS_BETWEEN_READINGS:
            self._used = self._read().since(self._energy_zero)
            self._read_at = time.monotonic()
        machines = self._processes.gather(self._used)
        state.energy = total_energy([self._energy_before, *machines])

    def seconds(self) -> float:
        """All sessions' seconds until now."""
        return self._seconds_before + time.monotonic() - self._started

    def _read(self) -> Energy:
        return self._meter.read() if self._processes.leads_machine else Energy()

    def rate(self, state: TrainState) -> float:
        """Tokens per second since the last call, pauses left out."""
        now = time.monotonic()
        trained_s = self._trained_s + now - self._resumed_at
        tokens_per_s = (state.tokens - self._tokens) / max(trained_s, 1e-9)
        self.best_tokens_per_s = max(self.best_tokens_per_s, tokens_per_s)
        self._tokens = state.tokens
        self._trained_s, self._resumed_at = 0.0, now
        return tokens_per_s

    def seconds_left(self, state: TrainState, num_steps: int) -> float:
        """Seconds to the last step at the pace of this session."""
        share = (state.step - self._first_step) / (num_steps - self._first_step)
        return (time.monotonic() - self._started) * (1 - share) / share
