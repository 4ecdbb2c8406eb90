"""The doctor: what it finds is there, and what it misses has a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.stages import doctor


def test_everything_is_looked_at(tmp_path: Path) -> None:
    found = doctor.examine(tmp_path / "not" / "there")
    names = [row.name for row in found.findings]
    for name in ("python", "torch", "memory free", "disk free", "GPU", "matrix multiply"):
        assert name in names
    assert found.peak_tflops > 0
    assert found.next_command.startswith("ttl ")


def test_a_missing_library_names_its_room_and_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda n: None if n == "gguf" else real(n))
    rows = {row.name: row for row in doctor.examine(tmp_path).findings}
    assert rows["ttl quantize"].health == "warn"
    assert rows["ttl quantize"].fix == "pip install 'teenytinyllama[quantize]'"


def test_an_unwritable_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.examine(tmp_path).next_command == "choose another --run-dir"
