"""Manifests of stages that never ran."""

from __future__ import annotations

from typing import Any

from teenytinyllama.artifacts.manifest import Manifest


def manifest_of(stage: str = "pack", **fields: Any) -> Manifest:
    """A manifest with these fields; the others are empty."""
    values = {
        "version": "1", "fingerprint": "f", "recipe": {}, "inputs": {}, "outputs": {},
        "counts": {}, "metrics": {}, "started_at": "2026-11-30T00:00:00Z", "duration_s": 1.0,
        "energy_kwh": {}, "emissions_kg": 0.0, "versions": {},
    }  # fmt: skip
    return Manifest(stage=stage, **{**values, **fields})
