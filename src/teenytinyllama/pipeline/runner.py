"""The walk: what each stage is given, and when one can be skipped.

A stage is skipped when its manifest is there, was made with the same settings from the same inputs,
and the files it names are still there. Otherwise it runs; what an earlier recipe left in its
folder is set aside under `.previous/`, never deleted unseen.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
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
from teenytinyllama.artifacts import manifest as manifests
from teenytinyllama.artifacts.manifest import Input, Manifest
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.pipeline import fingerprints
from teenytinyllama.pipeline.loading import load_stage
from teenytinyllama.pipeline.processes import Processes
from teenytinyllama.pipeline.registry import BY_NAME, STAGES
from teenytinyllama.progress import format_duration
from teenytinyllama.redaction import redact_values
from teenytinyllama.settings.base import Settings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.interface import ScoreModel, Stage, StageContext, StageResult

logger = logging.getLogger(__name__)


UNFINISHED = ".unfinished.json"
VERSIONED = ("torch", "transformers", "tokenizers", "sentencepiece", "numpy", "accelerate")


class Walk:
    """One recipe on one run folder. `run_stages` does the work, under the folder's lock."""

    def __init__(self, recipe: Recipe, run_dir: Path, recipe_path: Path) -> None:
        self.recipe, self.run_dir, self.recipe_path = recipe, run_dir, recipe_path
        self.meter = EnergyMeter(recipe.energy)
        self.processes = Processes()

    def run_stages(self, names: list[str] | None, *, redo: bool) -> None:
        """Run the named stages, or all stages of the recipe, in pipeline order.

        Raises UserError before anything is written where the input is wrong, Interrupted where
        a signal or a full disk stopped the work.
        """
        wanted = [stage for stage in STAGES if self._settings(stage) is not None]
        if names is not None:
            wanted = [self._named(name) for name in names]
        with self._locked() if self.processes.is_leader else nullcontext():
            try:
                for stage in wanted:
                    self._visit(stage, redo=redo)
            except OSError as error:
                raise _explain_os_error(error, self.run_dir) from error
            finally:
                self.meter.stop()

    def _settings(self, stage: Stage) -> Settings | None:
        settings: Settings | None = getattr(self.recipe, stage.name)
        return settings

    def _named(self, name: str) -> Stage:
        stage = BY_NAME[name]
        if self._settings(stage) is None:
            raise UserError(
                "stage-not-in-recipe",
                str(self.recipe_path),
                f"has no section [{name}]",
                f"add [{name}] to the recipe",
            )
        return stage

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
        manifests.write_json(path, {"name": self.recipe.name, "recipe": whole})

    def _inputs(self, stage: Stage) -> dict[str, Input]:
        inputs = {}
        for name in (*stage.reads, *stage.reads_if_there):
            source = BY_NAME[name]
            found = manifests.read_manifest(self.run_dir / source.name)
            if found is None and name in stage.reads_if_there:
                continue
            if found is None:
                raise UserError(
                    "stage-before-stage",
                    f"ttl {stage.name}",
                    f"reads {source.name}/manifest.json, which is not in {self.run_dir}",
                    f"run `ttl {name} {self.recipe_path}` first",
                )
            # The report shows times and energy too: for it, everything in a manifest counts.
            everything = manifests.fingerprint_of(found.model_dump(mode="json"))
            print_ = everything if stage.shows_manifests else found.content_fingerprint()
            inputs[name] = Input(path=source.name, fingerprint=print_)
        return inputs

    def _visit(self, stage: Stage, *, redo: bool) -> None:
        settings = self._settings(stage)
        assert settings is not None
        if self.processes.is_leader:
            self._lead(stage, settings, redo=redo)
        elif self.processes.follow():
            self._enter(stage, settings, self._inputs(stage))

    def _lead(self, stage: Stage, settings: Settings, *, redo: bool) -> None:
        """Skip the stage or run it, and tell the helpers of a stage that trains."""
        stage_dir = self.run_dir / stage.name
        inputs = self._inputs(stage)
        asked = settings.model_dump(mode="json")
        files = fingerprints.fingerprints(settings)
        fingerprint = manifests.fingerprint_of(
            {
                "stage": stage.name,
                "revision": stage.revision,
                "language": self.recipe.language,
                "settings": asked,
                "inputs": {name: i.fingerprint for name, i in inputs.items()},
                "files": files,
                # Prices change the report and nothing else.
                "energy": self.recipe.energy.model_dump() if stage.shows_manifests else None,
            }
        )
        done = manifests.read_manifest(stage_dir)
        if done is not None and not redo and done.fingerprint == fingerprint:
            gone = manifests.missing_outputs(stage_dir, done.outputs)
            if not gone:
                logger.info(f"{stage.name}: unchanged, skipped")
                self.processes.lead(enter=False)
                return
            logger.info(
                f"{stage.name}: {len(gone)} of its files are gone or changed ({gone[0]}), again"
            )
        if self.processes.count > 1 and stage.keeps_checkpoints and not stage.many_processes:
            raise UserError(
                "one-process",
                f"ttl {stage.name}",
                f"was started as {self.processes.count} processes, and trains with one",
                f"`ttl run {self.recipe_path}` without torchrun: what is done is skipped",
            )
        self._clear(stage, stage_dir, fingerprint, redact_values(asked), redo=redo)
        self.processes.lead(enter=stage.many_processes)
        self._run(stage, settings, stage_dir, fingerprint, inputs)

    def _clear(
        self, stage: Stage, stage_dir: Path, fingerprint: str, asked: dict[str, Any], *, redo: bool
    ) -> None:
        """Leave in the folder only unfinished work of this very fingerprint.

        A mark alone is no work: the stage stopped at a fault in its input before it made anything.
        It must neither stand in the way of the mended input nor push out what was set aside.
        """
        mark = stage_dir / UNFINISHED
        if stage_dir.is_dir() and any(path != mark for path in stage_dir.iterdir()):
            unfinished = json.loads(mark.read_text()) if mark.is_file() else None
            same = unfinished is not None and unfinished["fingerprint"] == fingerprint
            if same and not redo:
                return
            if unfinished is not None and stage.keeps_checkpoints and not redo:
                raise UserError(
                    "unfinished-differs",
                    str(stage_dir),
                    "holds unfinished work made with other settings or inputs"
                    + _difference(unfinished["settings"], asked),
                    "set it back to go on, or --redo to set that work aside and start anew",
                )
            aside = self.run_dir / ".previous" / stage.name
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            stage_dir.rename(aside)
            logger.info(f"{stage.name}: what was there is set aside in {aside}")
        stage_dir.mkdir(exist_ok=True)
        manifests.sync_folder(self.run_dir)  # a power cut must not take the stage with its work
        manifests.write_json(mark, {"fingerprint": fingerprint, "settings": asked})

    def _enter(self, stage: Stage, settings: Settings, inputs: dict[str, Input]) -> StageResult:
        """Call the stage's `run` with its settings and its folders."""
        context = StageContext(
            self.recipe.name,
            self.recipe.language,
            self.recipe.energy,
            self.meter,
            self._score_model() if stage.takes_scorer else None,
        )
        folders = {f"{name}_dir": self.run_dir / i.path for name, i in inputs.items()}
        for name in stage.reads_if_there:
            folders.setdefault(f"{name}_dir", None)  # type: ignore[arg-type]
        outcome: StageResult = load_stage(stage.module, loads_model=stage.loads_model).run(
            settings=settings, context=context, out_dir=self.run_dir / stage.name, **folders
        )
        return outcome

    def _score_model(self) -> ScoreModel | None:
        """How another stage scores a model in training, where the recipe asks for it."""
        for stage in STAGES:
            settings = self._settings(stage)
            if settings is None or not stage.scorer_module:
                continue
            if getattr(settings, stage.scorer_setting):
                module = load_stage(stage.scorer_module, loads_model=stage.loads_model)
                scorer: ScoreModel = module.scorer(settings, self.recipe.language)
                return scorer
        return None

    def _run(
        self,
        stage: Stage,
        settings: Settings,
        stage_dir: Path,
        fingerprint: str,
        inputs: dict[str, Input],
    ) -> None:
        logger.info(f"{stage.name}: {stage.title}")
        before, started = self.meter.read(), time.monotonic()
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        outcome = self._enter(stage, settings, inputs)
        used = self.meter.read().since(before)
        duration_s = time.monotonic() - started
        manifests.write_manifest(
            stage_dir,
            Manifest(
                stage=stage.name,
                version=__version__,
                fingerprint=fingerprint,
                recipe=redact_values(settings.model_dump(mode="json")),
                inputs=inputs,
                outputs=manifests.hash_outputs(stage_dir),
                counts=redact_values(outcome.counts),
                metrics=redact_values(outcome.metrics),
                started_at=started_at,
                duration_s=round(duration_s, 3),
                energy_kwh={k: v for k, v in used._asdict().items() if k != "emissions_kg"},
                emissions_kg=used.emissions_kg,
                versions=_versions(),
            ),
        )
        (stage_dir / UNFINISHED).unlink(missing_ok=True)
        logger.info(f"{stage.name}: done in {format_duration(duration_s)}")


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
