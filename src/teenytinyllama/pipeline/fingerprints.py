"""What a stage's result depends on, as one fingerprint: the stage runs again when it changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.file_hashes import FileHashes
from teenytinyllama.artifacts.manifest import Input, Manifest, fingerprint_of
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.base import Settings, expand_path
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.settings.datasets import LabelledSet, Source, Task
from teenytinyllama.settings.pretraining import EnsembleSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.settings.task_files import with_includes
from teenytinyllama.stages.interface import Stage


def stage_fingerprint(
    stage: Stage,
    recipe: Recipe,
    settings: Settings,
    inputs: Mapping[str, Input],
    files: Mapping[str, str],
) -> str:
    """Fingerprint of the stage's code, settings, inputs in the run, and `files` outside it."""
    return fingerprint_of(
        {
            **({"license": recipe.license} if stage.states_license else {}),
            "stage": stage.name,
            "revision": stage.revision,
            "language": recipe.language,
            "settings": settings.of_the_result(),
            "inputs": {name: one.fingerprint for name, one in inputs.items()},
            "files": dict(files),
            # Prices change what is shown and nothing else.
            "energy": recipe.energy.model_dump() if stage.shows_manifests else None,
        }
    )


def input_fingerprint(stage: Stage, manifest: Manifest) -> str:
    """Fingerprint of what `stage` reads of another stage: its files, or all that it reports."""
    if stage.shows_manifests:
        return fingerprint_of(manifest.model_dump(mode="json"))
    return manifest.content_fingerprint()


NO_FILES = fingerprint_of([])


def gone_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Settings that named files when a result was made, and name none now."""
    return [k for k, v in then.items() if v != NO_FILES and now.get(k, NO_FILES) == NO_FILES]


def external_inputs(settings: Settings, hashes: FileHashes, stage: str) -> dict[str, str]:
    """Fingerprint of the content of the files outside the run that settings name, by setting.

    Sources and labelled sets, tasks with their task file and what it includes, filters, and
    models given as a folder; a model id on the Hub names no file here.
    """
    prints = {}

    def of(paths: Iterable[Path]) -> str:
        return hashes.fingerprint(paths, stage)

    for field in type(settings).model_fields:
        value = getattr(settings, field)
        for index, item in enumerate(value if isinstance(value, tuple) else ()):
            key = f"{field}.{index}"
            if isinstance(item, Task):
                prints[key] = of({*item.local_paths(), *_task_files(item)})
            elif isinstance(item, LabelledSet | Source):
                prints[key] = of(item.local_paths())
            elif field == "models" and isinstance(item, str) and user_path(item).is_dir():
                prints[key] = of(expand_path(item))
        if isinstance(value, FilterSettings):
            prints[field] = of(value.local_paths())
        elif isinstance(value, EnsembleSettings):
            for index, place in enumerate(value.teachers):
                if user_path(place).is_dir():
                    prints[f"{field}.teachers.{index}"] = of(expand_path(place))
        elif field == "start_from" and value and user_path(value).is_dir():
            prints[field] = of(expand_path(value))
    return prints


def _task_files(task: Task) -> set[Path]:
    """The user's own task file and the files that it includes."""
    if not task.definition.endswith((".yaml", ".yml")):
        return set()
    path = user_path(task.definition)
    try:
        return {file.path for file in with_includes(path)}
    except ValueError:
        return {path}  # not YAML: the evaluate stage reports it, with the reason


def why_stale(
    done: Manifest,
    settings: dict[str, Any],
    inputs: Mapping[str, Input],
    files: Mapping[str, str],
) -> str:
    """In words, why a finished stage with another fingerprint runs again."""
    changed = changed_settings(done.recipe, settings)
    if changed:
        return f"settings changed ({changed})"
    names = [n for n in sorted({*done.inputs, *inputs}) if done.inputs.get(n) != inputs.get(n)]
    names += [n for n in sorted({*done.files, *files}) if done.files.get(n) != files.get(n)]
    return f"inputs changed ({', '.join(names)})" if names else "made by an earlier version"


def changed_settings(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """Settings that differ; empty where none does.

    >>> changed_settings({"num_steps": 150, "model": {"a": 1}}, {"num_steps": 300, "model": {}})
    'model.a 1 -> null, num_steps 150 -> 300'
    """
    rows = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            rows.append(changed_settings(old, new, f"{prefix}{key}."))
        elif old != new:
            rows.append(f"{prefix}{key} {json.dumps(old)[:60]} -> {json.dumps(new)[:60]}")
    return ", ".join(row for row in rows if row)
