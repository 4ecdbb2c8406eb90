"""Read what the stages of a run left. A stage without a manifest has not finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import (
    STAGE_NAMES,
    Manifest,
    check_run_version,
    read_manifest,
    read_run_json,
)
from teenytinyllama.errors import UserError
from teenytinyllama.settings.base import EnergySettings


@dataclass(frozen=True)
class FinishedStage:
    """A finished stage: its manifest and its folder."""

    manifest: Manifest
    folder: Path

    def count(self, *path: str) -> Any:
        """A count of the manifest, or None."""
        return dig(self.manifest.counts, *path)

    def metric(self, *path: str) -> Any:
        """A metric of the manifest, or None."""
        return dig(self.manifest.metrics, *path)

    def setting(self, *path: str) -> Any:
        """A setting of the stage, or None."""
        return dig(self.manifest.recipe, *path)


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run has left so far."""

    name: str
    language: str
    energy: EnergySettings
    stages: Mapping[str, FinishedStage]
    # Folders of stages that have started but not finished, and the whole recipe: filled by
    # `read_run` only. The report stage itself reads finished stages.
    unfinished: Mapping[str, Path] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_price(self) -> bool:
        """Whether the recipe says what the run costs."""
        return bool(self.energy.usd_per_gpu_hour or self.energy.usd_per_kwh)

    def folder(self, name: str) -> Path | None:
        """The folder of a stage, finished or not; None if it has not started."""
        stage = self.stages.get(name)
        return stage.folder if stage else self.unfinished.get(name)

    def stage(self, name: str) -> FinishedStage | None:
        """A finished stage, or None."""
        return self.stages.get(name)


def read_run(run_dir: Path) -> RunRecord:
    """The run in a folder, unfinished stages included. Raises UserError for any other folder."""
    run = read_run_json(run_dir)
    try:
        recipe = run["recipe"]
        energy = EnergySettings.model_validate_json(json.dumps(recipe.get("energy", {})))
        name, language = str(run["name"]), str(recipe.get("language", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = "is not a run folder (no readable run.json)"
        raise UserError("run-missing", str(run_dir), what, "ls runs/") from error
    check_run_version(run_dir)
    folders = {stage: run_dir / stage for stage in STAGE_NAMES}
    stages = read_manifests(folders)
    return RunRecord(
        name=name,
        language=language,
        energy=energy,
        stages=stages,
        unfinished={
            stage: folder
            for stage, folder in folders.items()
            if stage not in stages and folder.is_dir() and any(folder.iterdir())
        },
        recipe=recipe,
    )


def read_manifests(folders: Mapping[str, Path | None]) -> dict[str, FinishedStage]:
    """The finished stages by name, in pipeline order."""
    manifests = {}
    for name in STAGE_NAMES:
        folder = folders.get(name)
        manifest = read_manifest(folder) if folder is not None else None
        if folder is not None and manifest is not None:
            manifests[name] = FinishedStage(manifest, folder)
    return manifests


def dig(value: Any, *path: str) -> Any:
    """The value at a path of keys, or None.

    >>> dig({"a": {"b": 3}}, "a", "b"), dig({"a": 1}, "a", "b")
    (3, None)
    """
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
