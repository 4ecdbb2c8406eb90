"""What every room may know beside its own settings."""

from __future__ import annotations

from dataclasses import dataclass

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.recipe import EnergySettings


@dataclass(frozen=True)
class RoomContext:
    """The run's name and language, the running energy meter, and the prices to count with."""

    run_name: str
    language: str
    energy: EnergySettings
    meter: EnergyMeter
