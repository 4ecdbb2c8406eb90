"""`<run>/.previous/<stage>/<number>/`: results and unfinished work that others took the place of.

Nothing that was set aside is lost without a line. Where its settings are asked for again it is
taken back, found by its fingerprint. Only a stage that finishes deletes: the oldest beyond the
number that is kept, finished results and unfinished work apart.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    sync_folder,
)
from teenytinyllama.errors import UserError
from teenytinyllama.progress import format_bytes

logger = logging.getLogger(__name__)

FOLDER_NAME = ".previous"
MARK_NAME = ".unfinished.json"
KEPT = 3


@dataclass(frozen=True)
class Previous:
    """What was set aside once."""

    stage: str
    path: Path

    @property
    def number(self) -> int:
        """Later ones have higher numbers."""
        return int(self.path.name)

    @property
    def manifest(self) -> Manifest | None:
        """Its manifest; None for unfinished work and for a damaged one."""
        try:
            return read_manifest(self.path)
        except UserError:
            return None

    @property
    def is_finished(self) -> bool:
        """Whether it was complete."""
        return (self.path / MANIFEST_NAME).is_file()

    @property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        return folder_bytes(self.path)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


class PreviousResults:
    """All that was set aside in one run."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.folder = run_dir, run_dir / FOLDER_NAME

    def of(self, stage: str) -> list[Previous]:
        """What was set aside of a stage, oldest first; what a link leads to was not set aside."""
        root = self.run_dir.resolve() / FOLDER_NAME / stage
        found = [
            Previous(stage, path)
            for path in self._numbered(stage)
            if path.is_dir() and path.resolve() == root / path.name
        ]
        return sorted(found, key=lambda one: one.number)

    def _numbered(self, stage: str) -> list[Path]:
        folder = self.folder / stage
        paths = folder.iterdir() if folder.is_dir() else ()
        return [path for path in paths if path.name.isdecimal()]

    def set_aside(self, stage: str) -> Path:
        """Move the stage's folder here; returns where to. A crash leaves it here or there."""
        (self.folder / stage).mkdir(parents=True, exist_ok=True)
        last = max((int(path.name) for path in self._numbered(stage)), default=0)
        target = self.folder / stage / str(last + 1)
        (self.run_dir / stage).rename(target)
        sync_folder(target.parent)
        sync_folder(self.run_dir)
        return target

    def take_back(self, previous: Previous) -> None:
        """Move it to the stage's folder, which must not be there."""
        previous.path.rename(self.run_dir / previous.stage)
        sync_folder(self.run_dir)

    def finished(self, stage: str, fits: Callable[[Manifest], bool]) -> Previous | None:
        """The newest complete result whose manifest `fits`."""
        for one in reversed(self.of(stage)):
            manifest = one.manifest
            if manifest is not None and fits(manifest):
                return one
        return None

    def unfinished(self, stage: str, fingerprint: str) -> Previous | None:
        """The newest unfinished work of this fingerprint."""
        for one in reversed(self.of(stage)):
            mark = read_mark(one.path)
            if not one.is_finished and mark is not None and mark["fingerprint"] == fingerprint:
                return one
        return None

    def prune(self, stage: str, keep: int) -> None:
        """Delete the oldest beyond `keep` finished and `keep` unfinished ones, with a line each."""
        for is_finished in (True, False):
            those = [one for one in self.of(stage) if one.is_finished == is_finished]
            for one in those[: max(len(those) - keep, 0)]:
                what = "result" if is_finished else "unfinished work"
                size = format_bytes(one.num_bytes)
                logger.info(
                    f"{stage}: deleting {what} {one.path} ({size}): "
                    f"the {keep} newest are kept (--keep-previous)"
                )
                shutil.rmtree(one.path)


def read_mark(stage_dir: Path) -> dict[str, Any] | None:
    """Fingerprint and settings of unfinished work; None where they cannot be read."""
    try:
        mark = json.loads((stage_dir / MARK_NAME).read_bytes())
        if isinstance(mark["fingerprint"], str) and isinstance(mark["settings"], dict):
            return {"fingerprint": mark["fingerprint"], "settings": mark["settings"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None
