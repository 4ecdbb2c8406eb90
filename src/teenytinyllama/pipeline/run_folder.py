"""The folder of one run: its lock, its recipe, unfinished work, and results that are replaced."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts import manifest as manifests
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.pipeline.fingerprints import changed_settings
from teenytinyllama.redaction import redact_values
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.interface import Stage

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished.json"


class RunFolder:
    """`runs/<name>/`: a folder per stage, `run.json` with the recipe, `.lock`, `.previous/`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage_dir(self, stage: Stage) -> Path:
        """The folder of a stage in this run."""
        return self.path / stage.name

    @contextmanager
    def locked(self, recipe: Recipe) -> Iterator[None]:
        """Own the folder: one process at a time, and one recipe for its whole life.

        Raises UserError where another process or recipe owns it, version 0.1 made it, or it
        cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a+")
        except OSError as error:
            explained = explain_os_error(error, self.path)
            raise _unwritable(error, self.path) if explained is error else explained from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise UserError(
                    "run-busy",
                    str(self.path),
                    f"another ttl is using this folder ({lock.read().strip() or 'unknown'})",
                    "wait for it, or give this run another --run-dir",
                ) from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            self._claim(recipe)
            yield

    def _claim(self, recipe: Recipe) -> None:
        manifests.check_run_version(self.path)
        path = self.path / "run.json"
        if path.is_file():
            owner = json.loads(path.read_text(encoding="utf-8"))["name"]
            if owner != recipe.name:
                raise UserError(
                    "run-of-other-recipe",
                    str(self.path),
                    f'was made by the recipe "{owner}", this one is "{recipe.name}"',
                    f"--run-dir runs/{recipe.name}",
                )
        whole = redact_values(recipe.model_dump(mode="json", exclude_none=True))
        manifests.write_json(path, {"name": recipe.name, "recipe": whole})

    def prepare(
        self, stage: Stage, fingerprint: str, settings: dict[str, Any], *, redo: bool, reason: str
    ) -> None:
        """Leave in the stage's folder only unfinished work of this very fingerprint.

        Anything else moves to `.previous/`, with `reason` in the log. Raises UserError for
        unfinished training with other settings, which took long: the user decides.
        """
        stage_dir = self.stage_dir(stage)
        mark = stage_dir / UNFINISHED
        # A mark alone is no work: the stage failed on its input before it made anything. It must
        # neither block the corrected input nor replace what is in `.previous/`.
        if stage_dir.is_dir() and any(path != mark for path in stage_dir.iterdir()):
            finished = (stage_dir / manifests.MANIFEST_NAME).is_file()
            unfinished = json.loads(mark.read_text()) if mark.is_file() and not finished else None
            if unfinished is not None and not redo:
                if unfinished["fingerprint"] == fingerprint:
                    return
                changed = changed_settings(unfinished["settings"], settings)
                if stage.keeps_checkpoints:
                    raise _other_work(stage_dir, changed)
                reason = f"settings changed ({changed})" if changed else "inputs changed"
            what = "previous result" if finished else "unfinished work"
            self._move_to_previous(stage, f"{reason}; {what}")
        stage_dir.mkdir(exist_ok=True)
        manifests.sync_folder(self.path)  # a power cut must not take the stage with its work
        manifests.write_json(mark, {"fingerprint": fingerprint, "settings": settings})

    def _move_to_previous(self, stage: Stage, what: str) -> None:
        previous = self.path / ".previous" / stage.name
        shutil.rmtree(previous, ignore_errors=True)
        previous.parent.mkdir(exist_ok=True)
        self.stage_dir(stage).rename(previous)
        logger.info(f"{stage.name}: {what} moved to {previous}")

    def finish(self, stage: Stage, manifest: manifests.Manifest) -> None:
        """Write the manifest, then remove the mark of unfinished work."""
        manifests.write_manifest(self.stage_dir(stage), manifest)
        (self.stage_dir(stage) / UNFINISHED).unlink(missing_ok=True)


def _other_work(stage_dir: Path, changed: str) -> UserError:
    return UserError(
        "unfinished-differs",
        str(stage_dir),
        "holds unfinished work made with other settings or inputs"
        + (f": {changed}" if changed else ""),
        "set it back to resume, or --redo to move that work aside and start over",
    )


def explain_os_error(error: OSError, folder: Path) -> Exception:
    """Interrupted for a full disk, UserError for a folder without permission, else the error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        return Interrupted(f"no space left for {error.filename or folder} ({free:,} bytes free)")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
        return _unwritable(error, folder)
    return error


def _unwritable(error: OSError, folder: Path) -> UserError:
    return UserError(
        "folder-unwritable",
        str(error.filename or folder),
        f"cannot be written ({error.strerror})",
        "choose a folder of yours with --run-dir",
    )
