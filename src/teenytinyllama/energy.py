"""Energy of a stage: GPU measured through NVML, CPU and memory modelled, always kept apart.

CodeCarbon measures, offline: online, where its look-up of the country fails, it silently assumes
Canada. In the paper 18 % of the "measured" energy is a modelled constant.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from teenytinyllama.settings.base import EnergySettings


class Energy(NamedTuple):
    """Energy used since some moment, in kilowatt-hours, and its carbon emissions in kilograms."""

    gpu_measured: float = 0.0
    cpu_modelled: float = 0.0
    ram_modelled: float = 0.0
    emissions_kg: float = 0.0

    @property
    def total_kwh(self) -> float:
        """The sum of the three parts."""
        return self.gpu_measured + self.cpu_modelled + self.ram_modelled

    def since(self, earlier: Energy) -> Energy:
        """Energy used between an earlier reading and this one."""
        return Energy(*(now - then for now, then in zip(self, earlier, strict=True)))


def total_energy(parts: Sequence[Energy]) -> Energy:
    """The sum of several amounts."""
    return Energy(*(sum(column) for column in zip(*parts, strict=True)))


class EnergyMeter:
    """One tracker for the whole process; it starts at the first reading.

    Starting takes about a second, so a run that skips every stage never starts it.
    """

    def __init__(self, settings: EnergySettings) -> None:
        self._settings = settings
        self._tracker: Any = None
        # Readings come from the thread that writes down what was spent, too.
        self._lock = threading.RLock()
        self.latest = Energy()
        self.on_reading: Callable[[], None] | None = None
        """Called after every reading by `read`."""

    def read(self) -> Energy:
        """Energy since the first reading of this meter."""
        with self._lock:
            if self._tracker is None:
                self._start()
                self.latest = Energy()
            else:
                self._measure()
            found = self.latest
        if self.on_reading is not None:
            self.on_reading()
        return found

    def refresh(self) -> None:
        """Bring `latest` up to date, where the meter runs and nobody is reading it."""
        if self._tracker is not None and self._lock.acquire(blocking=False):
            try:
                if self._tracker is not None:
                    self._measure()
            finally:
                self._lock.release()

    def _measure(self) -> None:
        self._tracker._measure_power_and_energy()  # codecarbon has no public method for it
        data = self._tracker._prepare_emissions_data()
        self.latest = Energy(data.gpu_energy, data.cpu_energy, data.ram_energy, data.emissions)

    def _start(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=self._settings.country,
            measure_power_secs=15,
            tracking_mode="machine",
            output_methods=[],
            log_level="error",
            allow_multiple_runs=True,
        )
        self._tracker.start()

    def stop(self) -> None:
        """Stop the tracker's background thread. Reading again would start a new one."""
        with self._lock:
            if self._tracker is not None:
                self._tracker.stop()
                self._tracker = None
