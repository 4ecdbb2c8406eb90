"""Reads what the stages left. A stage without a manifest is None; nothing is guessed or kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import STAGE_NAMES, Manifest, read_manifest
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
        """A figure of the manifest, or None."""
        return dig(self.manifest.metrics, *path)

    def setting(self, *path: str) -> Any:
        """A setting that the stage was given, or None."""
        return dig(self.manifest.recipe, *path)


@dataclass(frozen=True)
class RunRecord:
    """All that a run has left so far."""

    name: str
    language: str
    usd_per_gpu_hour: float
    usd_per_kwh: float
    country: str
    stages: Mapping[str, FinishedStage]
    # Folders of stages that have begun and not finished, and the whole recipe: of a run folder that
    # is looked at while it grows. The stage itself reads finished stages alone.
    unfinished: Mapping[str, Path] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, name: str) -> Path | None:
        """Where a stage's files are, finished or not; None where it has not begun."""
        stage = self.stages.get(name)
        return stage.folder if stage else self.unfinished.get(name)

    def stage(self, name: str) -> FinishedStage | None:
        """The manifest of a stage, or None where it has not finished."""
        return self.stages.get(name)

    @property
    def vocab_size(self) -> Any:
        """Pieces of the vocabulary, or None."""
        stage = self.stage("tokenizer")
        return stage.count("vocab_size") if stage else None


def read_run(run_dir: Path) -> RunRecord:
    """What a run folder holds now, unfinished stages too. Raises UserError for another folder."""
    path = run_dir / "run.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        recipe = whole["recipe"]
        prices = EnergySettings.model_validate_json(json.dumps(recipe.get("energy", {})))
        name, language = str(whole["name"]), str(recipe.get("language", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = "is not the folder of a run (no run.json that can be read)"
        raise UserError("run-missing", str(run_dir), what, "ls runs/") from error
    folders = {stage: run_dir / stage for stage in STAGE_NAMES}
    stages = read_manifests(folders)
    return RunRecord(
        name=name,
        language=language,
        usd_per_gpu_hour=prices.usd_per_gpu_hour,
        usd_per_kwh=prices.usd_per_kwh,
        country=prices.country,
        stages=stages,
        unfinished={
            stage: folder
            for stage, folder in folders.items()
            if stage not in stages and folder.is_dir() and any(folder.iterdir())
        },
        asked=recipe,
    )


def read_manifests(folders: Mapping[str, Path | None]) -> dict[str, FinishedStage]:
    """Manifests by stage name, in pipeline order, of the stages that finished."""
    manifests = {}
    for name in STAGE_NAMES:
        folder = folders.get(name)
        manifest = read_manifest(folder) if folder is not None else None
        if folder is not None and manifest is not None:
            manifests[name] = FinishedStage(manifest, folder)
    return manifests


def dig(value: Any, *path: str) -> Any:
    """The value at a path of keys, or None where there is none.

    >>> dig({"a": {"b": 3}}, "a", "b"), dig({"a": 1}, "a", "b")
    (3, None)
    """
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a `.jsonl` file; a last line that was cut by a kill is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def read_last_lines(path: Path) -> list[dict[str, Any]]:
    """As `read_lines`, each step once: a resumed run may log a step again, the last one counts."""
    by_step: dict[Any, dict[str, Any]] = {}
    for line in read_lines(path):
        if "step" in line:
            by_step[line["step"]] = line
    return [by_step[step] for step in sorted(by_step)]
