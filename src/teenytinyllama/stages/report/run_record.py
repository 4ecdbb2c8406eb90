"""Reads what the rooms left. A room without a receipt is None; nothing is guessed or kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import FOLDERS, Manifest, read_manifest


@dataclass(frozen=True)
class Receipt:
    """A finished room: its manifest and its folder."""

    manifest: Manifest
    folder: Path

    def count(self, *path: str) -> Any:
        """A count of the manifest, or None."""
        return dig(self.manifest.counts, *path)

    def figure(self, *path: str) -> Any:
        """A figure of the manifest, or None."""
        return dig(self.manifest.figures, *path)

    def setting(self, *path: str) -> Any:
        """A setting that the room was given, or None."""
        return dig(self.manifest.recipe, *path)


@dataclass(frozen=True)
class RunRecord:
    """All that a run has left so far."""

    name: str
    language: str
    usd_per_gpu_hour: float
    usd_per_kwh: float
    country: str
    rooms: Mapping[str, Receipt]
    # Folders of rooms that have begun and not finished, and the whole recipe: of a run folder that
    # is looked at while it grows. The room itself reads finished rooms alone.
    unfinished: Mapping[str, Path] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, name: str) -> Path | None:
        """Where a room's files are, finished or not; None where it has not begun."""
        room = self.rooms.get(name)
        return room.folder if room else self.unfinished.get(name)

    def room(self, name: str) -> Receipt | None:
        """The receipt of a room, or None where it has not finished."""
        return self.rooms.get(name)

    @property
    def vocab_size(self) -> Any:
        """Pieces of the vocabulary, or None."""
        room = self.room("tokenizer")
        return room.count("vocab_size") if room else None


def read_receipts(folders: Mapping[str, Path | None]) -> dict[str, Receipt]:
    """Receipts by room name, in pipeline order, of the rooms that finished."""
    receipts = {}
    for name in FOLDERS:
        folder = folders.get(name)
        manifest = read_manifest(folder) if folder is not None else None
        if folder is not None and manifest is not None:
            receipts[name] = Receipt(manifest, folder)
    return receipts


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
