"""Run the stages of a recipe in order, skipping those whose result is up to date.

A stage is skipped when its manifest is there, was made with the same settings from the same inputs,
and the files it names are still there. Otherwise it runs; an earlier result in its folder moves to
`.previous/`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama import __version__
from teenytinyllama.artifacts import manifest as manifests
from teenytinyllama.artifacts.file_hashes import (
    FileHashes,
    hash_finished,
    missing_outputs,
    verify_outputs,
)
from teenytinyllama.artifacts.manifest import Input, Manifest
from teenytinyllama.energy import Energy, EnergyMeter, total_energy
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.pipeline.fingerprints import (
    external_inputs,
    gone_files,
    input_fingerprint,
    stage_fingerprint,
    why_stale,
)
from teenytinyllama.pipeline.loading import load_stage
from teenytinyllama.pipeline.notification import notifying
from teenytinyllama.pipeline.previous_results import KEPT, Previous
from teenytinyllama.pipeline.process_check import check_processes, versions
from teenytinyllama.pipeline.recipe_check import check_recipe
from teenytinyllama.pipeline.registry import BY_NAME, STAGES
from teenytinyllama.pipeline.run_folder import RunFolder, explain_os_error
from teenytinyllama.pipeline.spending import SpendingLog, total
from teenytinyllama.process_group import ALONE, ProcessGroup, is_lost_connection
from teenytinyllama.progress import format_duration
from teenytinyllama.redaction import redact_values
from teenytinyllama.settings.base import Settings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.interface import ScoreModel, Stage, StageContext, StageResult

logger = logging.getLogger(__name__)

MISSING = "missing or changed"


@dataclass(frozen=True)
class Work:
    """What one stage is asked for."""

    stage: Stage
    settings: Settings
    inputs: dict[str, Input]
    files: dict[str, str]
    fingerprint: str

    @property
    def shown(self) -> dict[str, Any]:
        """The settings, without secrets."""
        found: dict[str, Any] = redact_values(self.settings.model_dump(mode="json"))
        return found


class PipelineRunner:
    """Runs the stages of one recipe in one run folder."""

    def __init__(
        self, recipe: Recipe, run_dir: Path, recipe_path: Path, *, keep_previous: int = KEPT
    ) -> None:
        self.recipe, self.recipe_path = recipe, recipe_path
        self.folder = RunFolder(run_dir)
        self.hashes = FileHashes(run_dir)
        self.keep_previous = keep_previous
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
        with self._owned_and_notifying() if self.processes.is_leader else nullcontext():
            try:
                check_processes(self.processes, self.recipe, self.folder.path)
                if self.processes.is_leader:
                    to_run = self._stages_to_run(wanted, redo=redo)
                    check_recipe(self.recipe, to_run, self.folder.path)
                for stage in wanted:
                    self._run_stage(stage, redo=redo)
            except OSError as error:
                raise explain_os_error(error, self.folder.path) from error
            except RuntimeError as error:
                if self.processes.count == 1 or not is_lost_connection(error):
                    raise
                raise Interrupted("another process of this run is gone, or hangs") from error
            finally:
                self.meter.stop()

    @contextmanager
    def _owned_and_notifying(self) -> Iterator[None]:
        with self.folder.locked(self.recipe), notifying(self.recipe.notify, self.folder.path):
            yield

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
        try:
            work = self._work(stage)
            done = manifests.read_manifest(self.folder.stage_dir(stage))
        except UserError:
            return True  # a stage that it reads is not there, or a manifest is damaged
        return bool(self._reason_to_run(work, done)) and self._earlier_result(work) is None

    def _run_stage(self, stage: Stage, *, redo: bool) -> None:
        """Skip the stage or run it; helpers do as the leader decides."""
        settings = self._settings(stage)
        assert settings is not None
        if not self.processes.is_leader:
            if self.processes.broadcast(False):  # what the leader says counts
                self._help(stage, settings)
            return
        work = self._work(stage)
        logger.debug(f"{stage.name}: fingerprint {work.fingerprint}, inputs {work.inputs}")
        reason = "--redo" if redo else self._reason_to_run(work, self._done(stage))
        earlier = self._earlier_result(work) if reason and not redo else None
        if earlier is not None:
            self.folder.take_back(stage, earlier)
        elif reason.endswith(MISSING):
            logger.warning(f"{stage.name}: {reason}; running again")
        if not reason or earlier is not None:
            self._say_skipped(work)
            self.hashes.save()
            self.processes.broadcast(False)
            return
        self._verify(stage, work.inputs)
        self.folder.prepare(stage, work.fingerprint, work.shown, redo=redo, reason=reason)
        self.hashes.save()
        self.processes.broadcast(stage.many_processes)
        self._run_measured(work)

    def _help(self, stage: Stage, settings: Settings) -> None:
        """Work on a stage that the leader runs, and tell it what this machine has used."""
        measures = self.processes.leads_machine
        zero = self.meter.read() if measures else Energy()
        self._call(stage, settings, self._inputs(stage))
        self.processes.gather(self.meter.read().since(zero) if measures else Energy())

    def _work(self, stage: Stage) -> Work:
        """What the stage is asked for. Raises UserError where one that it reads is unfinished."""
        settings = self._settings(stage)
        assert settings is not None
        inputs = self._inputs(stage)
        files = external_inputs(settings, self.hashes, stage.name)
        fingerprint = stage_fingerprint(stage, self.recipe, settings, inputs, files)
        return Work(stage, settings, inputs, files, fingerprint)

    def _done(self, stage: Stage) -> Manifest | None:
        """The stage's manifest; one that is damaged is made again where its work is there."""
        stage_dir = self.folder.stage_dir(stage)
        try:
            found = manifests.read_manifest(stage_dir)
        except UserError:
            self.folder.reopen(stage)
            found = manifests.read_manifest(stage_dir)
        if found is None:
            self.folder.reopen(stage)
        return found

    def _is_of(self, work: Work, done: Manifest) -> bool:
        """Whether a result is of these settings and inputs.

        Files that are gone since cannot have changed: what was made of them counts.
        """
        gone = gone_files(done.files, work.files)
        files = work.files | {name: done.files[name] for name in gone}
        return done.fingerprint == stage_fingerprint(
            work.stage, self.recipe, work.settings, work.inputs, files
        )

    def _earlier_result(self, work: Work) -> Previous | None:
        """A whole result of these settings and inputs that was set aside."""
        found = self.folder.previous.finished(
            work.stage.name, lambda manifest: self._is_of(work, manifest)
        )
        if found is not None and found.manifest is not None:
            try:
                verify_outputs(found.path, found.manifest)
            except UserError as error:
                logger.warning(f"{work.stage.name}: {found.path} is not taken back ({error.what})")
                return None
        return found

    def _say_skipped(self, work: Work) -> None:
        done = manifests.read_manifest(self.folder.stage_dir(work.stage))
        gone = gone_files(done.files, work.files) if done is not None else []
        if gone:
            names = ", ".join(f"{work.stage.name}.{name}" for name in gone)
            logger.info(
                f"{work.stage.name}: the files of {names} are gone; its result is whole and is kept"
            )
        else:
            logger.info(f"{work.stage.name}: unchanged, skipped")

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
            verify_outputs(stage_dir, found, may_be_gone=stage.shows_manifests)

    def _reason_to_run(self, work: Work, done: Manifest | None) -> str:
        """Why the stage has to run; empty where its result is up to date."""
        if done is None:
            return "no manifest"
        if not self._is_of(work, done):
            return why_stale(done, work.shown, work.inputs, work.files)
        missing = missing_outputs(self.folder.stage_dir(work.stage), done.outputs)
        if not missing:
            return ""
        many = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        return f"{missing[0]}{many} {MISSING}"

    def _run_measured(self, work: Work) -> None:
        """Run the stage with clock and energy meter, and write its manifest.

        Its cost is that of all the processes that worked on it.
        """
        stage, stage_dir = work.stage, self.folder.stage_dir(work.stage)
        logger.info(f"{stage.name}: {stage.title}")
        with SpendingLog(stage_dir, work.fingerprint, self.meter).running():
            self.meter.read()
            result = self._call(stage, work.settings, work.inputs)
            self.meter.read()
            # The leader's own machine is in its log of spending.
            elsewhere = self.processes.gather(Energy()) if stage.many_processes else []
            outputs = hash_finished(stage_dir)
        spent = total(stage_dir, work.fingerprint)
        energy = total_energy([spent.energy, *elsewhere])
        manifest = Manifest(
            stage=stage.name,
            version=__version__,
            fingerprint=work.fingerprint,
            recipe=work.shown,
            inputs=work.inputs,
            files=work.files,
            outputs=outputs,
            counts=redact_values(result.counts),
            metrics=redact_values(result.metrics),
            started_at=spent.started_at,
            duration_s=round(spent.seconds, 3),
            energy_kwh={k: v for k, v in energy._asdict().items() if k != "emissions_kg"},
            emissions_kg=energy.emissions_kg,
            versions=versions(),
        )
        self.folder.finish(stage, manifest, keep_previous=self.keep_previous)
        logger.info(f"{stage.name}: done in {format_duration(spent.seconds)}")

    def _call(self, stage: Stage, settings: Settings, inputs: dict[str, Input]) -> StageResult:
        """Call the stage's `run` with its settings and its folders."""
        context = StageContext(
            self.recipe.name,
            self.recipe.language,
            self.recipe.energy,
            self.meter,
            self._score_model() if stage.takes_scorer else None,
            self.processes if stage.many_processes else ALONE,
            self.recipe.license if stage.states_license else "",
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
                scorer: ScoreModel = module.scorer(settings, self.recipe.language, self.processes)
                return scorer
        return None
