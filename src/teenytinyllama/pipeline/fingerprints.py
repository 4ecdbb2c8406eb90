"""Files outside the run that a stage's settings name: when one changes, the stage is done again."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.artifacts.manifest import fingerprint_files
from teenytinyllama.settings.base import Settings, expand_path
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.settings.datasets import LabelledSet, Source, Task
from teenytinyllama.settings.task_files import with_includes


def fingerprints(settings: Settings) -> dict[str, str]:
    """Fingerprint of the files behind each setting, by name, size and time of last change.

    Sources and labelled sets, tasks with the task file and what that includes, filters, and the
    models that are named by a folder. A model's id names nothing on this machine.
    """
    prints = {}
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        for item in value if isinstance(value, tuple) else ():
            if isinstance(item, Task):
                # Two tasks may read one folder by two task files.
                key = f"{item.name} {item.path} {item.definition}"
                prints[key] = fingerprint_files({*item.local_paths(), *_task_files(item)})
            elif isinstance(item, LabelledSet | Source):
                prints[item.path] = fingerprint_files(item.local_paths())
            elif field == "models" and isinstance(item, str) and Path(item).expanduser().is_dir():
                prints[f"{field} {item}"] = fingerprint_files(expand_path(item))
        if isinstance(value, FilterSettings):
            prints[field] = fingerprint_files(value.local_paths())
    return prints


def _task_files(task: Task) -> set[Path]:
    """The task file of one's own, with the files that it includes."""
    if not task.definition.endswith((".yaml", ".yml")):
        return set()
    path = Path(task.definition).expanduser()
    try:
        return {file.path for file in with_includes(path)}
    except ValueError:
        return {path}  # no YAML: the evaluate stage says so, with its reason
