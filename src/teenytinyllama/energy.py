"""Energy of a stage: GPU measured through NVML, CPU and memory modelled, always kept apart.

CodeCarbon measures, offline: online, where its look-up of the country fails, it silently assumes
Canada. In the paper 18 % of the "measured" energy is a modelled constant.
"""

from __future__ import annotations

import logging
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


class EnergyMeter:
    """One tracker for the whole process; it starts at the first reading.

    Starting takes about a second, so a run that skips every stage never starts it.
    """

    def __init__(self, settings: EnergySettings) -> None:
        self._settings = settings
        self._tracker: Any = None

    def read(self) -> Energy:
        """Energy since the first reading of this meter."""
        if self._tracker is None:
            self._start()
            return Energy()
        self._tracker._measure_power_and_energy()  # codecarbon has no public method for it
        data = self._tracker._prepare_emissions_data()
        return Energy(data.gpu_energy, data.cpu_energy, data.ram_energy, data.emissions)

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
        if self._tracker is not None:
            self._tracker.stop()
            self._tracker = None
