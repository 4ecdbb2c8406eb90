"""What killed processes have used stays counted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from teenytinyllama.energy import Energy, EnergyMeter
from teenytinyllama.pipeline import spending
from teenytinyllama.pipeline.spending import SpendingLog, read_all, total
from teenytinyllama.settings.base import EnergySettings


class Meter(EnergyMeter):
    """Uses one watt-hour of the CPU a reading."""

    def __init__(self) -> None:
        super().__init__(EnergySettings())

    def read(self) -> Energy:
        self.latest = Energy(0.0, self.latest.cpu_modelled + 0.001, 0.0, 0.0001)
        if self.on_reading is not None:
            self.on_reading()
        return self.latest

    def refresh(self) -> None:
        pass


def test_a_process_that_is_killed_has_written_down_what_it_used(tmp_path: Path) -> None:
    meter = Meter()
    with SpendingLog(tmp_path, "a", meter).running():
        meter.read()
        (seen,) = read_all(tmp_path)  # as after SIGKILL at this moment
        assert seen.energy.cpu_modelled == 0.001
        meter.read()
        time.sleep(0.6)
        (seen,) = read_all(tmp_path)
        assert seen.seconds >= 0.5
    assert len((tmp_path / spending.FILE_NAME).read_text().splitlines()) == 1


def test_the_sum_is_over_all_processes_of_a_fingerprint(tmp_path: Path) -> None:
    for fingerprint in ("a", "b", "a"):
        meter = Meter()
        with SpendingLog(tmp_path, fingerprint, meter).running():
            meter.read()
    assert total(tmp_path, "a").energy.cpu_modelled == pytest.approx(0.002)
    assert [row.fingerprint for row in read_all(tmp_path)] == ["a", "b", "a"]


def test_a_damaged_line_is_said_and_costs_only_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with SpendingLog(tmp_path, "a", Meter()).running():
            pass
    path = tmp_path / spending.FILE_NAME
    path.write_bytes(b"{" + path.read_bytes()[1:-300].replace(b"seconds", b"sec\xff", 1))
    with SpendingLog(tmp_path, "a", Meter()).running():
        pass
    assert len(read_all(tmp_path)) == 1
    assert "2 lines cannot be read" in capsys.readouterr().err
