"""The walk: what each room is given, and when one can be skipped.

A room is skipped when its receipt is there, was made with the same settings from the same inputs,
and the files it names are still there. Otherwise it runs; what an earlier recipe left in its
folder is set aside under `.previous/`, never deleted unseen.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from teenytinyllama import __version__
from teenytinyllama.artifacts import manifest as receipts
from teenytinyllama.artifacts.manifest import Input, Manifest, Outcome
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.pipeline import fingerprints
from teenytinyllama.pipeline.loading import load_room
from teenytinyllama.pipeline.processes import Processes
from teenytinyllama.pipeline.registry import BY_NAME, ROOMS, Room
from teenytinyllama.progress import format_duration, say
from teenytinyllama.redaction import redact_values
from teenytinyllama.settings.recipe import Recipe, Settings
from teenytinyllama.stages.interface import RoomContext, ScoreModel

UNFINISHED = ".unfinished.json"
VERSIONED = ("torch", "transformers", "tokenizers", "sentencepiece", "numpy", "accelerate")


class Walk:
    """One recipe on one run folder. `run_rooms` does the work, under the folder's lock."""

    def __init__(self, recipe: Recipe, run_dir: Path, recipe_path: Path) -> None:
        self.recipe, self.run_dir, self.recipe_path = recipe, run_dir, recipe_path
        self.meter = EnergyMeter(recipe.energy)
        self.processes = Processes()

    def run_rooms(self, names: list[str] | None, *, redo: bool) -> None:
        """Run the named rooms, or all rooms of the recipe, in pipeline order.

        Raises UserError before anything is written where the input is wrong, Interrupted where
        a signal or a full disk stopped the work.
        """
        wanted = [room for room in ROOMS if self._settings(room) is not None]
        if names is not None:
            wanted = [self._named(name) for name in names]
        with self._locked() if self.processes.is_leader else nullcontext():
            try:
                for room in wanted:
                    self._visit(room, redo=redo)
            except OSError as error:
                raise _explain_os_error(error, self.run_dir) from error
            finally:
                self.meter.stop()

    def _settings(self, room: Room) -> Settings | None:
        settings: Settings | None = getattr(self.recipe, room.name)
        return settings

    def _named(self, name: str) -> Room:
        room = BY_NAME[name]
        if self._settings(room) is None:
            raise UserError(
                "room-not-in-recipe",
                str(self.recipe_path),
                f"has no section [{name}]",
                f"add [{name}] to the recipe",
            )
        return room

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Own the run folder: one process at a time, and one recipe for its whole life."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.run_dir / ".lock").open("a+")
        except OSError as error:
            explained = _explain_os_error(error, self.run_dir)
            raise _unwritable(error, self.run_dir) if explained is error else explained from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise UserError(
                    "run-busy",
                    str(self.run_dir),
                    f"another ttl works here ({lock.read().strip() or 'unknown'})",
                    "wait for it, or give this run another --run-dir",
                ) from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            self._claim()
            yield

    def _claim(self) -> None:
        path = self.run_dir / "run.json"
        if path.is_file():
            owner = json.loads(path.read_text(encoding="utf-8"))["name"]
            if owner != self.recipe.name:
                raise UserError(
                    "run-of-other-recipe",
                    str(self.run_dir),
                    f'was made by the recipe "{owner}", this one is "{self.recipe.name}"',
                    f"--run-dir runs/{self.recipe.name}",
                )
        whole = redact_values(self.recipe.model_dump(mode="json", exclude_none=True))
        receipts.write_json(path, {"name": self.recipe.name, "recipe": whole})

    def _inputs(self, room: Room) -> dict[str, Input]:
        inputs = {}
        for name in (*room.reads, *room.reads_if_there):
            source = BY_NAME[name]
            found = receipts.read_manifest(self.run_dir / source.folder)
            if found is None and name in room.reads_if_there:
                continue
            if found is None:
                raise UserError(
                    "room-before-room",
                    f"ttl {room.name}",
                    f"reads {source.folder}/manifest.json, which is not in {self.run_dir}",
                    f"run `ttl {name} {self.recipe_path}` first",
                )
            # The report shows times and energy too: for it, everything in a receipt counts.
            everything = receipts.fingerprint_of(found.model_dump(mode="json"))
            print_ = everything if room.name == "report" else found.content_fingerprint()
            inputs[name] = Input(path=source.folder, fingerprint=print_)
        return inputs

    def _visit(self, room: Room, *, redo: bool) -> None:
        settings = self._settings(room)
        assert settings is not None
        if self.processes.is_leader:
            self._lead(room, settings, redo=redo)
        elif self.processes.follow():
            self._enter(room, settings, self._inputs(room))

    def _lead(self, room: Room, settings: Settings, *, redo: bool) -> None:
        """Skip the room or run it, and tell the helpers of a room that trains."""
        room_dir = self.run_dir / room.folder
        inputs = self._inputs(room)
        asked = settings.model_dump(mode="json")
        files = fingerprints.fingerprints(settings)
        fingerprint = receipts.fingerprint_of(
            {
                "room": room.name,
                "revision": room.revision,
                "language": self.recipe.language,
                "settings": asked,
                "inputs": {name: i.fingerprint for name, i in inputs.items()},
                "files": files,
                # Prices change the report and nothing else.
                "energy": self.recipe.energy.model_dump() if room.name == "report" else None,
            }
        )
        done = receipts.read_manifest(room_dir)
        if done is not None and not redo and done.fingerprint == fingerprint:
            gone = receipts.missing_outputs(room_dir, done.outputs)
            if not gone:
                say(f"{room.name}: unchanged, skipped")
                self.processes.lead(enter=False)
                return
            say(f"{room.name}: {len(gone)} of its files are gone or changed ({gone[0]}), again")
        if self.processes.count > 1 and room.keeps_checkpoints and not room.many_processes:
            raise UserError(
                "one-process",
                f"ttl {room.name}",
                f"was started as {self.processes.count} processes, and trains with one",
                f"`ttl run {self.recipe_path}` without torchrun: what is done is skipped",
            )
        self._clear(room, room_dir, fingerprint, redact_values(asked), redo=redo)
        self.processes.lead(enter=room.many_processes)
        self._run(room, settings, room_dir, fingerprint, inputs)

    def _clear(
        self, room: Room, room_dir: Path, fingerprint: str, asked: dict[str, Any], *, redo: bool
    ) -> None:
        """Leave in the folder only unfinished work of this very fingerprint.

        A mark alone is no work: the room stopped at a fault in its input before it made anything.
        It must neither stand in the way of the mended input nor push out what was set aside.
        """
        mark = room_dir / UNFINISHED
        if room_dir.is_dir() and any(path != mark for path in room_dir.iterdir()):
            unfinished = json.loads(mark.read_text()) if mark.is_file() else None
            same = unfinished is not None and unfinished["fingerprint"] == fingerprint
            if same and not redo:
                return
            if unfinished is not None and room.keeps_checkpoints and not redo:
                raise UserError(
                    "unfinished-differs",
                    str(room_dir),
                    "holds unfinished work made with other settings or inputs"
                    + _difference(unfinished["settings"], asked),
                    "set it back to go on, or --redo to set that work aside and start anew",
                )
            aside = self.run_dir / ".previous" / room.folder
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            room_dir.rename(aside)
            say(f"{room.name}: what was there is set aside in {aside}")
        room_dir.mkdir(exist_ok=True)
        receipts.sync_folder(self.run_dir)  # a power cut must not take the room with its work
        receipts.write_json(mark, {"fingerprint": fingerprint, "settings": asked})
        if room.folder != room.name:
            # A room's name leads to its folder; a file system without links loses nothing.
            with suppress(FileExistsError, PermissionError, NotImplementedError):
                (self.run_dir / room.name).symlink_to(room.folder, target_is_directory=True)

    def _enter(self, room: Room, settings: Settings, inputs: dict[str, Input]) -> Outcome:
        """Call the room's `run` with its settings and its folders."""
        context = RoomContext(
            self.recipe.name,
            self.recipe.language,
            self.recipe.energy,
            self.meter,
            self._score_model() if room.name == "pretrain" else None,
        )
        folders = {f"{name}_dir": self.run_dir / i.path for name, i in inputs.items()}
        for name in room.reads_if_there:
            folders.setdefault(f"{name}_dir", None)  # type: ignore[arg-type]
        outcome: Outcome = load_room(room.module, uses_model=room.uses_model).run(
            settings=settings, context=context, out_dir=self.run_dir / room.folder, **folders
        )
        return outcome

    def _score_model(self) -> ScoreModel | None:
        """How the evaluate room scores a model in training, where the recipe asks for it."""
        wanted = self.recipe.evaluate
        if wanted is None or not wanted.items_during_training:
            return None
        room = load_room(BY_NAME["evaluate"].module, uses_model=True)
        scorer: ScoreModel = room.scorer(wanted, self.recipe.language)
        return scorer

    def _run(
        self,
        room: Room,
        settings: Settings,
        room_dir: Path,
        fingerprint: str,
        inputs: dict[str, Input],
    ) -> None:
        say(f"{room.name}: {room.title}")
        before, started = self.meter.read(), time.monotonic()
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        outcome = self._enter(room, settings, inputs)
        used = self.meter.read().since(before)
        duration_s = time.monotonic() - started
        receipts.write_manifest(
            room_dir,
            Manifest(
                room=room.name,
                version=__version__,
                fingerprint=fingerprint,
                recipe=redact_values(settings.model_dump(mode="json")),
                inputs=inputs,
                outputs=receipts.hash_outputs(room_dir),
                counts=redact_values(outcome.counts),
                figures=redact_values(outcome.figures),
                started_at=started_at,
                duration_s=round(duration_s, 3),
                energy_kwh={k: v for k, v in used._asdict().items() if k != "emissions_kg"},
                emissions_kg=used.emissions_kg,
                versions=_versions(),
            ),
        )
        (room_dir / UNFINISHED).unlink(missing_ok=True)
        say(f"{room.name}: done in {format_duration(duration_s)}")


def _difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """`: num_steps 100 -> 200, ...` for settings that differ; empty where none does."""
    rows = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _difference(old, new, f"{prefix}{key}.")
            rows.extend(inner.removeprefix(": ").split(", ") if inner else [])
        elif old != new:
            rows.append(f"{prefix}{key} {json.dumps(old)[:60]} -> {json.dumps(new)[:60]}")
    return ": " + ", ".join(rows) if rows else ""


def _versions() -> dict[str, str]:
    import platform

    found = {"python": platform.python_version(), "teenytinyllama": __version__}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _explain_os_error(error: OSError, folder: Path) -> Exception:
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
