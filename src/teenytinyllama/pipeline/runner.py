"""Run the stages of a recipe in order, skipping those whose result is up to date.

A stage is skipped when its manifest is there, was made with the same settings from the same inputs,
and the files it names are still there. Otherwise it runs; an earlier result in its folder moves to
`.previous/`.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from teenytinyllama import __version__
from teenytinyllama.artifacts import manifest as manifests
from teenytinyllama.artifacts.manifest import Input, Manifest
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import UserError
from teenytinyllama.pipeline.fingerprints import input_fingerprint, stage_fingerprint, why_stale
from teenytinyllama.pipeline.loading import load_stage
from teenytinyllama.pipeline.recipe_check import check_recipe
from teenytinyllama.pipeline.registry import BY_NAME, STAGES
from teenytinyllama.pipeline.run_folder import RunFolder, explain_os_error
from teenytinyllama.progress import format_duration
from teenytinyllama.redaction import redact_values
from teenytinyllama.settings.base import Settings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.interface import ScoreModel, Stage, StageContext, StageResult

logger = logging.getLogger(__name__)

VERSIONED = ("torch", "transformers", "tokenizers", "sentencepiece", "numpy", "accelerate")
# Helpers wait while the leader evaluates or writes reports: far longer than for a broken network.
HELPER_TIMEOUT = timedelta(days=1)


class PipelineRunner:
    """Runs the stages of one recipe in one run folder."""

    def __init__(self, recipe: Recipe, run_dir: Path, recipe_path: Path) -> None:
        self.recipe, self.recipe_path = recipe, recipe_path
        self.folder = RunFolder(run_dir)
        self.meter = EnergyMeter(recipe.energy)
        self.processes = ProcessGroup()

    def run_stages(self, names: Sequence[str] | None = None, *, redo: bool = False) -> None:
        """Run the named stages, or all stages of the recipe, in pipeline order.

        Raises UserError before anything is written where the input is wrong, Interrupted where
        a signal or a full disk stopped the work.
        """
        wanted = [stage for stage in STAGES if self._settings(stage) is not None]
        if names is not None:
            wanted = [self._named(name) for name in names]
        with self.folder.locked(self.recipe) if self.processes.is_leader else nullcontext():
            try:
                if self.processes.is_leader:
                    to_run = self._stages_to_run(wanted, redo=redo)
                    check_recipe(self.recipe, to_run, self.folder.path)
                for stage in wanted:
                    self._run_stage(stage, redo=redo)
            except OSError as error:
                raise explain_os_error(error, self.folder.path) from error
            finally:
                self.meter.stop()

    def _run_dir_option(self) -> str:
        """What a command needs to work in this folder too."""
        usual = Path("runs") / self.recipe.name
        return "" if self.folder.path == usual else f" --run-dir {self.folder.path}"

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

    def _stages_to_run(self, wanted: Sequence[Stage], *, redo: bool) -> list[Stage]:
        """The stages that are not up to date, and those that read one of them."""
        found: list[Stage] = []
        for stage in wanted:
            reads = {*stage.reads, *stage.reads_if_there}
            if redo or reads & {one.name for one in found} or self._is_stale(stage):
                found.append(stage)
        return found

    def _is_stale(self, stage: Stage) -> bool:
        settings = self._settings(stage)
        stage_dir = self.folder.stage_dir(stage)
        done = manifests.read_manifest(stage_dir)
        if settings is None or done is None:
            return True
        try:
            fingerprint = stage_fingerprint(stage, self.recipe, settings, self._inputs(stage))
        except UserError:
            return True  # it reads a stage that is not there: the run says so
        return done.fingerprint != fingerprint or bool(
            manifests.missing_outputs(stage_dir, done.outputs)
        )

    def _run_stage(self, stage: Stage, *, redo: bool) -> None:
        """Skip the stage or run it; helpers do as the leader decides."""
        settings = self._settings(stage)
        assert settings is not None
        if not self.processes.is_leader:
            if self.processes.follow():
                self._call(stage, settings, self._inputs(stage))
            return
        inputs = self._inputs(stage)
        fingerprint = stage_fingerprint(stage, self.recipe, settings, inputs)
        logger.debug(f"{stage.name}: fingerprint {fingerprint}, inputs {inputs}")
        shown = redact_values(settings.model_dump(mode="json"))
        reason = "--redo" if redo else self._reason_to_run(stage, fingerprint, shown, inputs)
        if not reason:
            logger.info(f"{stage.name}: unchanged, skipped")
            self.processes.lead(join=False)
            return
        if self.processes.count > 1 and stage.keeps_checkpoints and not stage.many_processes:
            raise UserError(
                "one-process",
                f"ttl {stage.name}",
                f"was started as {self.processes.count} processes, and trains with one",
                f"`ttl run {self.recipe_path}` without torchrun: finished stages are skipped",
            )
        self._verify(stage, inputs)
        self.folder.prepare(stage, fingerprint, shown, redo=redo, reason=reason)
        self.processes.lead(join=stage.many_processes)
        self._run_measured(stage, settings, inputs, fingerprint)

    def _inputs(self, stage: Stage) -> dict[str, Input]:
        """The folders that the stage reads. Raises UserError where a needed one is unfinished."""
        inputs = {}
        for name in (*stage.reads, *stage.reads_if_there):
            found = manifests.read_manifest(self.folder.stage_dir(BY_NAME[name]))
            if found is not None:
                inputs[name] = Input(path=name, fingerprint=input_fingerprint(stage, found))
            elif name in stage.reads:
                raise UserError(
                    "stage-not-run",
                    f"ttl {stage.name}",
                    f"reads {name}/manifest.json, which is not in {self.folder.path}",
                    f"run `ttl {name} {self.recipe_path}{self._run_dir_option()}` first",
                )
        return inputs

    def _verify(self, stage: Stage, inputs: Iterable[str]) -> None:
        """Raise UserError where a folder that the stage reads is not as its stage left it.

        What the report shows may be gone: people remove large files.
        """
        for name in inputs:
            stage_dir = self.folder.stage_dir(BY_NAME[name])
            found = manifests.read_manifest(stage_dir)
            assert found is not None
            manifests.verify_outputs(stage_dir, found, may_be_gone=stage.shows_manifests)

    def _reason_to_run(
        self, stage: Stage, fingerprint: str, settings: dict[str, Any], inputs: dict[str, Input]
    ) -> str:
        """Why the stage has to run; empty where its result is up to date."""
        stage_dir = self.folder.stage_dir(stage)
        done = manifests.read_manifest(stage_dir)
        if done is None:
            return "no manifest"
        if done.fingerprint != fingerprint:
            return why_stale(done, settings, inputs)
        missing = manifests.missing_outputs(stage_dir, done.outputs)
        if not missing:
            return ""
        many = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        logger.warning(f"{stage.name}: {missing[0]}{many} missing or changed; running again")
        return "files missing or changed"

    def _run_measured(
        self, stage: Stage, settings: Settings, inputs: dict[str, Input], fingerprint: str
    ) -> None:
        """Run the stage with clock and energy meter, and write its manifest."""
        logger.info(f"{stage.name}: {stage.title}")
        before, started = self.meter.read(), time.monotonic()
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        result = self._call(stage, settings, inputs)
        used = self.meter.read().since(before)
        duration_s = time.monotonic() - started
        manifest = Manifest(
            stage=stage.name,
            version=__version__,
            fingerprint=fingerprint,
            recipe=redact_values(settings.model_dump(mode="json")),
            inputs=inputs,
            outputs=manifests.hash_outputs(self.folder.stage_dir(stage)),
            counts=redact_values(result.counts),
            metrics=redact_values(result.metrics),
            started_at=started_at,
            duration_s=round(duration_s, 3),
            energy_kwh={k: v for k, v in used._asdict().items() if k != "emissions_kg"},
            emissions_kg=used.emissions_kg,
            versions=_versions(),
        )
        manifests.note_outputs(self.folder.stage_dir(stage), manifest.outputs)
        self.folder.finish(stage, manifest)
        logger.info(f"{stage.name}: done in {format_duration(duration_s)}")

    def _call(self, stage: Stage, settings: Settings, inputs: dict[str, Input]) -> StageResult:
        """Call the stage's `run` with its settings and its folders."""
        context = StageContext(
            self.recipe.name,
            self.recipe.language,
            self.recipe.energy,
            self.meter,
            self._score_model() if stage.takes_scorer else None,
        )
        folders: dict[str, Path | None] = {f"{name}_dir": None for name in stage.reads_if_there}
        folders |= {f"{name}_dir": self.folder.path / one.path for name, one in inputs.items()}
        started = time.monotonic()
        module = load_stage(stage.module, loads_model=stage.loads_model)
        logger.debug(f"{stage.name}: imported in {format_duration(time.monotonic() - started)}")
        result: StageResult = module.run(
            settings=settings, context=context, out_dir=self.folder.stage_dir(stage), **folders
        )
        return result

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


class ProcessGroup:
    """The processes that `torchrun` or `accelerate launch` started: one leads, the others help.

    The leader locks, decides and writes; helpers join it in stages that train. With one process,
    torch is never loaded for this.
    """

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.is_leader = os.environ.get("RANK", "0") == "0"
        self._state: Any = None

    def lead(self, *, join: bool) -> None:
        """Tell the helpers whether to join the next stage."""
        if self.count > 1:
            self._broadcast(join)

    def follow(self) -> bool:
        """Wait until the leader says whether to join the next stage."""
        return self._broadcast(None)

    def _broadcast(self, value: bool | None) -> bool:
        import torch
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        if self._state is None:
            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=HELPER_TIMEOUT)
        box = [value]
        broadcast_object_list(box, from_process=0)
        return bool(box[0])


def _versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that results depend on."""
    found = {"python": platform.python_version(), "teenytinyllama": __version__}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
