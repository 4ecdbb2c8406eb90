import pytest

from teenytinyllama.energy import Energy, EnergyMeter
from teenytinyllama.settings.base import EnergySettings


def test_parts_stay_apart_and_readings_are_differences():
    earlier, later = Energy(1.0, 0.5, 0.25, 0.1), Energy(3.0, 1.0, 0.5, 0.4)
    used = later.since(earlier)
    assert used[:3] == (2.0, 0.5, 0.25)
    assert used.emissions_kg == pytest.approx(0.3)
    assert used.total_kwh == 2.75


def test_the_meter_starts_at_zero_and_grows_and_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meter = EnergyMeter(EnergySettings(country="DEU"))
    assert meter.read() == Energy()
    second = meter.read()
    third = meter.read()
    meter.stop()
    assert 0 < second.ram_modelled < third.ram_modelled
    # Germany's grid in codecarbon 3.3: 0.381 kg a kWh (Brazil's: 0.098).
    assert third.emissions_kg / third.total_kwh == pytest.approx(0.381, rel=0.01)
    assert list(tmp_path.iterdir()) == []
