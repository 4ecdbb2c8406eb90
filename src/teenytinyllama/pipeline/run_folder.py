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
from teenytinyllama.pipeline import spending
from teenytinyllama.pipeline.fingerprints import changed_settings
from teenytinyllama.pipeline.previous_results import (
    FOLDER_NAME,
    MARK_NAME,
    Previous,
    PreviousResults,
    folder_bytes,
    read_mark,
)
from teenytinyllama.pipeline.registry import BY_NAME
from teenytinyllama.progress import format_bytes
from teenytinyllama.redaction import redact_values
from teenytinyllama.regular_files import check_no_folder, check_regular
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.interface import Stage

logger = logging.getLogger(__name__)

UNFINISHED = MARK_NAME
FINISHED = ".finished.json"  # the same of a finished stage
NO_WORK = (UNFINISHED, FINISHED, spending.FILE_NAME)


class RunFolder:
    """`runs/<name>/`: a folder per stage, `run.json` with the recipe, `.lock`, `.previous/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.previous = PreviousResults(path)

    def stage_dir(self, stage: Stage) -> Path:
        """The folder of a stage in this run."""
        return self.path / stage.name

    @contextmanager
    def locked(self, recipe: Recipe) -> Iterator[None]:
        """Own the folder: one process at a time, and one recipe for its whole life.

        Raises UserError where another process or recipe owns it, version 0.1 made it, or it
        cannot be written.
        """
        with self.owned():
            self._claim(recipe)
            yield

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep other processes out. Raises UserError where one is in it, or it is not writable."""
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # A copy of hard links has a lock of its own; a link would have another file emptied.
            if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
                path.unlink()
            check_no_folder(path)
            if path.exists():
                check_regular(path)
            lock = path.open("a+")
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
            yield

    def _claim(self, recipe: Recipe) -> None:
        manifests.check_run_version(self.path)
        path = self.path / "run.json"
        if path.is_file():
            try:
                owner = str(json.loads(path.read_bytes())["name"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                logger.warning(f"{path} cannot be read ({error}); it is written again")
                owner = recipe.name
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

        Anything else is set aside, with `reason` in the log. Raises UserError for unfinished
        training with other settings, which took long: the user decides.
        """
        stage_dir = self.stage_dir(stage)
        # A mark alone is no work: the stage failed on its input before it made anything. It must
        # not block the corrected input.
        is_aside = False
        if stage_dir.is_dir() and any(path.name not in NO_WORK for path in stage_dir.iterdir()):
            finished = (stage_dir / manifests.MANIFEST_NAME).is_file()
            back = None if redo else self.previous.unfinished(stage.name, fingerprint)
            if not finished and not redo:
                mark = read_mark(stage_dir)
                if (mark["fingerprint"] if mark else _last_spent_on(stage_dir)) == fingerprint:
                    if mark is None:
                        logger.warning(f"{stage_dir / UNFINISHED} was damaged or missing; restored")
                        self._mark(stage, fingerprint, settings)
                    _own_files(stage_dir)
                    return
                changed = changed_settings(mark["settings"], settings) if mark else ""
                if stage.keeps_checkpoints and back is None:
                    raise _other_work(stage_dir, changed) if mark else _unknown_work(stage_dir)
                if mark is None:
                    reason = f"{UNFINISHED} cannot be read"
                else:
                    reason = f"settings changed ({changed})" if changed else "inputs changed"
            what = "previous result" if finished else "unfinished work"
            self._set_aside(stage, f"{reason}; {what}")
            is_aside = True
        if not redo and (back := self.previous.unfinished(stage.name, fingerprint)) is not None:
            if stage_dir.is_dir() and not is_aside:
                shutil.rmtree(stage_dir)
            logger.info(f"{stage.name}: going on with the unfinished work in {back.path}")
            self.previous.take_back(back)
            _own_files(stage_dir)
            return
        stage_dir.mkdir(exist_ok=True)
        manifests.sync_folder(self.path)  # a power cut must not take the stage with its work
        self._mark(stage, fingerprint, settings)

    def _mark(self, stage: Stage, fingerprint: str, settings: dict[str, Any]) -> None:
        mark = {"fingerprint": fingerprint, "settings": settings}
        manifests.write_json(self.stage_dir(stage) / UNFINISHED, mark)

    def _set_aside(self, stage: Stage, what: str) -> None:
        size = format_bytes(folder_bytes(self.stage_dir(stage)))
        logger.info(f"{stage.name}: {what} moved to {self.previous.set_aside(stage.name)} ({size})")

    def take_back(self, stage: Stage, previous: Previous) -> None:
        """Put an earlier result in the stage's folder; what is there now is set aside."""
        stage_dir = self.stage_dir(stage)
        if stage_dir.is_dir() and any(path.name not in NO_WORK for path in stage_dir.iterdir()):
            finished = (stage_dir / manifests.MANIFEST_NAME).is_file()
            self._set_aside(stage, "previous result" if finished else "unfinished work")
        elif stage_dir.is_dir():
            shutil.rmtree(stage_dir)
        logger.info(
            f"{stage.name}: the result for these settings is in {previous.path}; taken back"
        )
        self.previous.take_back(previous)

    def removable(self) -> list[tuple[Path, str]]:
        """Folders that no stage needs, and what each is: earlier results, damaged checkpoints."""
        found = []
        for name in BY_NAME:
            for one in self.previous.of(name):
                what = "result" if one.is_finished else "unfinished work"
                found.append((one.path, f"{what} of {name}"))
        damaged = self.path.rglob(f"damaged-{manifests.CHECKPOINT_PREFIX}*")
        found += [
            (path, "damaged checkpoint")
            for path in sorted(damaged)
            if path.is_dir() and FOLDER_NAME not in path.relative_to(self.path).parts
        ]
        return found

    def reopen(self, stage: Stage) -> None:
        """Make a finished stage with a damaged manifest unfinished again, where that is known."""
        stage_dir = self.stage_dir(stage)
        if (stage_dir / FINISHED).is_file():
            logger.warning(
                f"{stage_dir / manifests.MANIFEST_NAME} is damaged or missing; "
                f"{stage.name} goes on from the work that is there"
            )
            (stage_dir / FINISHED).rename(stage_dir / UNFINISHED)
            (stage_dir / manifests.MANIFEST_NAME).unlink(missing_ok=True)

    def finish(self, stage: Stage, manifest: manifests.Manifest, *, keep_previous: int) -> None:
        """Write the manifest, then remove the mark of unfinished work and the oldest results."""
        stage_dir = self.stage_dir(stage)
        manifests.write_manifest(stage_dir, manifest)
        if (stage_dir / UNFINISHED).is_file():
            (stage_dir / UNFINISHED).rename(stage_dir / FINISHED)
        self.previous.prune(stage.name, keep_previous)


def _own_files(stage_dir: Path) -> None:
    """Copy files with another hard link: what is appended here must not be written there too.

    Checkpoints are never written again. Raises UserError for a link to a file outside the run: it
    would be written, or its content would become the stage's.
    """
    num_copied = 0
    run_dir = stage_dir.parent.resolve()
    for path in stage_dir.rglob("*"):
        name = path.relative_to(stage_dir).as_posix()
        if name.startswith(manifests.CHECKPOINT_PREFIX):
            continue
        is_inside = path.resolve().is_relative_to(run_dir) or stage_dir.is_symlink()
        if path.is_symlink() and not is_inside:
            raise UserError(
                "run-link",
                str(path),
                f"is a link to {path.resolve()}, outside the run",
                f"rm {path}, or put the file itself there",
            )
        if path.is_file() and (path.is_symlink() or path.stat().st_nlink > 1):
            copy = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            shutil.copy2(path, copy)
            copy.replace(path)
            num_copied += 1
    if num_copied:
        logger.info(f"{stage_dir}: {num_copied} files had another link and were copied")


def _last_spent_on(stage_dir: Path) -> str:
    """Fingerprint of the last process that worked here; empty where that is not known."""
    rows = spending.read_all(stage_dir)
    return rows[-1].fingerprint if rows else ""


def _unknown_work(stage_dir: Path) -> UserError:
    return UserError(
        "unfinished-unknown",
        str(stage_dir),
        f"holds unfinished work, and {UNFINISHED}, which says with which settings, cannot be read",
        "--redo to move that work aside and start over",
    )


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
