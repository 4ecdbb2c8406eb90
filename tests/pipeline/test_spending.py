"""What killed processes have used stays counted."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import SMALL_RECIPE, ttl

from teenytinyllama.artifacts.manifest import read_manifest
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


def test_a_killed_stage_costs_what_both_its_processes_used(tmp_path: Path) -> None:
    recipe, stage_dir = tmp_path / "r.toml", tmp_path / "run" / "corpus"
    recipe.write_text(SMALL_RECIPE.replace("40", "1500"))
    arguments = ("corpus", recipe, "--run-dir", tmp_path / "run")
    command = [sys.executable, "-m", "teenytinyllama.cli", *map(str, arguments)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not read_all(stage_dir) or read_all(stage_dir)[0].seconds < 0.5:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    (first,) = read_all(stage_dir)
    ttl(*arguments)
    manifest = read_manifest(stage_dir)
    assert manifest is not None
    _, second = read_all(stage_dir)
    assert manifest.duration_s == pytest.approx(first.seconds + second.seconds, abs=0.002)
    assert sum(manifest.energy_kwh.values()) == pytest.approx(
        first.energy.total_kwh + second.energy.total_kwh
    )


@pytest.mark.parametrize("seconds", ["-5", "NaN", "Infinity", "1e400", "9" * 400, '"x"'])
def test_a_cost_that_cannot_be_is_a_damaged_line(
    seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SpendingLog(tmp_path, "a", Meter()).running():
        pass
    path = tmp_path / spending.FILE_NAME
    good = path.read_text()
    path.write_text(good + re.sub(r'"seconds": [0-9.e-]+', f'"seconds": {seconds}', good))
    assert len(read_all(tmp_path)) == 1
    assert "1 lines cannot be read" in capsys.readouterr().err
