"""The one training loop: accumulate, clip, step, log, evaluate, save, resume.

A stage gives it a `Job`: a module whose forward is the summed loss of a micro-batch, and a pure
function from a step's number to its micro-batches. Everything that decides a result is a function
of (seed, step) or stands in the checkpoint, so a killed run that is started again ends in the
same bytes as one that was left alone. The host never waits for the device inside a step: losses
and norms stay there until a line is logged.

A batch goes through these files, in this order:

    batches.py      which rows make step N (the stage asks it)
    gradients.py    rows -> micro-batches -> loss -> gradients, here and in other processes
    strategies.py      how processes share weights: clip, step, gather for a save
    cpu_layers.py   what a layer keeps for its backward pass where there is no GPU, with
                    cpu_passes.py (between the products) and cpu_attention.py (short rows)
    setbacks.py     what happens when a gradient is not finite
    saving.py       what stands in a checkpoint beside the tensors (checkpoints.py writes it)
    spending.py     seconds, energy, tokens per second; journal.py writes them down, and
                    contention.py notices who else holds the processors
    watchdog.py     what happens when a disk hangs; stopping.py, when somebody asks to stop
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from teenytinyllama import hardware
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import Interrupted
from teenytinyllama.training import checkpoints
from teenytinyllama.training.distributed import start_strategy
from teenytinyllama.training.divergence_guard import DivergenceGuard
from teenytinyllama.training.gradients import step_gradients
from teenytinyllama.training.interruption import Watchdog, stop_signals
from teenytinyllama.training.metrics_logger import MetricsLogger
from teenytinyllama.training.micro_batches import check_disk, first_micro_batch, smaller_micro_batch
from teenytinyllama.training.optimizers import learning_rate_factor, set_learning_rates
from teenytinyllama.training.resource_tracker import ResourceTracker
from teenytinyllama.training.task import Job, MicroBatch, TrainSettings
from teenytinyllama.training.train_state import (
    TrainState,
    arithmetic,
    check_identity,
    state_from_json,
    state_to_json,
    warn_of_other_arithmetic,
)

logger = logging.getLogger(__name__)


class _RolledBack(Exception):  # noqa: N818 (a turn in the road, not a fault)
    """Raised inside the loop after a return to an earlier checkpoint."""


class Loop:
    """Trains one job in one folder. `run` may be called in a folder with unfinished work."""

    def __init__(
        self, job: Job, settings: TrainSettings, out_dir: Path, meter: EnergyMeter
    ) -> None:
        self.job, self.settings, self.out_dir = job, settings, out_dir
        flops = settings.num_steps * job.rows_per_step * job.tokens_per_row * job.flops_per_token
        self.strategy = start_strategy(
            job.objective, settings, flops=flops, isolates_texts=job.isolates_texts
        )
        self.device, self.world = self.strategy.device, self.strategy.world
        self.is_main = self.strategy.rank == 0
        self.model = self.strategy.model
        self._arithmetic = arithmetic(self.strategy, settings)
        self.peak_flops_per_s = hardware.matmul_flops_per_s(
            hardware.compute_dtype(settings.precision), self.device
        )
        self.state = TrainState(
            micro_batch=settings.micro_batch
            or first_micro_batch(job, self.model, self.device, self.world)
        )
        self.stop_signal: str | None = None
        self._stats: list[Tensor] = []
        self._metrics_logger = MetricsLogger(out_dir, settings, is_main=self.is_main)
        self._divergence_guard = DivergenceGuard(self._metrics_logger, job.describe_step)
        self._resources = ResourceTracker(meter, self.strategy.contention)
        self._watchdog = Watchdog()

    # --- running -------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train to the last step and return figures. Raises Interrupted when asked to stop."""
        if self.is_main:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            checkpoints.clean_up(self.out_dir)
        self.strategy.wait()
        try:
            with self.strategy.steady_memory():
                self._resume()
                check_disk(self.out_dir, self.model, self.settings, self.state.step)
                progress = self.state
                self._resources.begin(progress, energy=progress.energy, seconds=progress.seconds)
                self._saved_at = time.monotonic()
                with stop_signals(self._ask_to_stop), self._watchdog.running():
                    while self.state.step < self.settings.num_steps:
                        with suppress(_RolledBack):
                            self._one_step()
                            self._after_step()
        finally:
            self._metrics_logger.close()
            checkpoints.finish_removals()
        return self._figures()

    def _ask_to_stop(self, name: str) -> None:
        self.stop_signal = name

    def _one_step(self) -> None:
        strategy, settings, step = self.strategy, self.settings, self.state.step
        if step in self._divergence_guard.skip_steps:
            self._record(torch.full((3,), nan, device=self.device))
            return
        while True:
            try:
                batches = self._watched(step)
                loss = step_gradients(strategy, settings, step, batches)
                break
            except torch.OutOfMemoryError:
                self._halve_micro_batch()
        norm = strategy.norm()
        found_inf = (~torch.isfinite(norm)).to(torch.float32)
        factor = learning_rate_factor(step, settings.schedule, settings.num_steps)
        set_learning_rates(strategy.optimizers, factor)
        strategy.step(norm, found_inf)
        self.state.tokens += sum(batch.num_tokens for batch in batches)
        self._record(torch.stack([loss, norm.to(torch.float32), found_inf]))

    def _watched(self, step: int) -> list[MicroBatch]:
        """The micro-batches of a step, which the watchdog knows of when they are read."""

        def load(batch: MicroBatch) -> Mapping[str, NDArray[Any]]:
            with self._watchdog.over(f"reading the rows of step {step}"):
                return batch.load()

        batches = self.job.micro_batches(step, self.state.micro_batch)
        return [replace(batch, load=partial(load, batch)) for batch in batches]

    def _halve_micro_batch(self) -> None:
        rows = self.state.micro_batch
        smaller = smaller_micro_batch(self.job, rows, self.world)
        self.strategy.zero_grad()
        self.state.micro_batch = smaller
        torch.cuda.empty_cache()
        logger.info(f"out of memory with micro_batch = {rows}; going on with {smaller}")

    def _record(self, stats: Tensor) -> None:
        self._stats.append(stats)
        self.state.step += 1

    # --- after a step --------------------------------------------------------------------------

    def _after_step(self) -> None:
        settings, step = self.settings, self.state.step
        last = step == settings.num_steps
        metrics: dict[str, float] = {}
        if self.job.evaluate and (last or _due(step, settings.evaluate_every_steps)):
            self._fetch()
            with self._resources.paused(), hardware.autocast(settings.precision, self.device):
                metrics = self._out_of_training(self.job.evaluate)
        if last or metrics or _due(step, settings.log_every_steps):
            self._log(metrics)
        else:
            left = self._resources.seconds_left(self.state, settings.num_steps)
            self._metrics_logger.pulse(step, seconds_left=left)
        if self.job.sample and (last or _due(step, settings.sample_every_steps)):
            self._write_samples()
        stop, is_time = self._agree()
        by_step = _due(step, settings.checkpoints.every_steps) or self._is_permanent(step)
        if stop or is_time or by_step or last:
            self._fetch()
            with self._resources.paused():
                self._save()
        if stop:
            raise Interrupted(f"{stop} after step {self.state.step}")

    def _agree(self) -> tuple[str | None, bool]:
        """The signal to obey now, and whether the clock asks for a save.

        The flag is read here once: a signal that comes a moment later waits for the next step, and
        none can fall between the question whether to save and the one whether to stop. Signals and
        clocks differ between processes; they agree on them, and seldom have to.
        """
        stop = self.stop_signal
        waited = time.monotonic() - self._saved_at
        is_time = waited >= 60 * self.settings.checkpoints.every_minutes
        if self.world == 1:
            return stop, is_time
        if not _due(self.state.step, self.settings.log_every_steps):
            return None, False
        flags = torch.tensor([float(stop is not None), float(is_time)], device=self.device)
        stops, times = self.strategy.sum(flags).tolist()
        return (stop or "a signal to another process") if stops else None, bool(times)

    def _is_permanent(self, step: int) -> bool:
        every = self.settings.checkpoints.permanent_every_steps
        return _due(step, every) or (bool(every) and step == self.settings.num_steps)

    def _fetch(self) -> None:
        """Bring losses and norms of the last steps to the host: the one place that waits."""
        if not self._stats:
            return
        stats = torch.stack(self._stats)
        self._stats = []
        if self.world > 1:
            losses = self.strategy.sum(stats[:, 0].contiguous())
            stats = torch.cat([losses[:, None], stats[:, 1:]], dim=1)
        rows = stats.tolist()
        self.state.pending += rows
        self._divergence_guard.count(rows, self.state)
        if self._divergence_guard.must_go_back(self.state, self.out_dir):
            self._roll_back()

    def _roll_back(self) -> None:
        """Return to the last checkpoint; what was spent stays spent."""
        self._resources.update(self.state)
        lost = self.state
        self._resume()
        self.state.rollbacks = lost.rollbacks + 1
        self._resources.begin(self.state, energy=lost.energy, seconds=lost.seconds)
        raise _RolledBack

    def _out_of_training(self, work: Callable[[nn.Module], Any]) -> Any:
        with (
            self.strategy.whole_model() as model,
            torch.no_grad(),
            # Documents of every length would each be compiled anew.
            torch.compiler.set_stance("force_eager"),
        ):
            model.eval()
            try:
                return work(model)
            finally:
                model.train()

    def _log(self, metrics: dict[str, float]) -> None:
        self._fetch()
        tokens_per_s = self._resources.rate(self.state)
        with self._resources.paused():
            self._write_line(metrics, tokens_per_s)

    def _write_line(self, metrics: dict[str, float], tokens_per_s: float) -> None:
        progress, spending = self.state, self._resources
        num_steps = self.settings.num_steps
        counted = [row for row in progress.pending if not row[2]]
        progress.pending = []
        spending.update(progress, now=progress.step == num_steps)
        line = {
            "step": progress.step,
            "tokens": progress.tokens,
            "loss": _mean([row[0] for row in counted]),
            "lr": self.strategy.optimizers[-1].param_groups[0]["lr"],
            "grad_norm": _mean([row[1] for row in counted]),
            **metrics,
            "tokens_per_s": round(tokens_per_s, 1),
            "mfu": round(self._utilisation(tokens_per_s), 4),
            "energy_kwh": progress.energy.total_kwh,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        progress.log_bytes = self._metrics_logger.metrics(line)
        self._metrics_logger.show(
            line,
            seconds_left=spending.seconds_left(progress, num_steps),
            seconds=progress.seconds,
            at_once=bool(metrics),
        )

    def _utilisation(self, tokens_per_s: float) -> float:
        return tokens_per_s * self.job.flops_per_token / (self.peak_flops_per_s * self.world)

    def _write_samples(self) -> None:
        assert self.job.sample is not None
        with self._resources.paused():
            rows = self._out_of_training(self.job.sample)
            where = {"step": self.state.step, "tokens": self.state.tokens}
            lines = [{**where, **row} for row in rows]
            self.state.samples_bytes = self._metrics_logger.samples(lines)

    # --- checkpoints ---------------------------------------------------------------------------

    def _save(self) -> None:
        self._resources.update(self.state)
        model, optimizer = self.strategy.tensors()
        if self.is_main:
            state = {
                "identity": dict(self.job.identity),
                "arithmetic": self._arithmetic,
                "progress": state_to_json(self.state),
                "skip_steps": sorted(self._divergence_guard.skip_steps),
            }
            size = sum(tensor.nbytes for tensor in (*model.values(), *optimizer.values()))
            with self._watchdog.over(f"saving step {self.state.step}", num_bytes=size):
                self._metrics_logger.sync()
                checkpoints.save_checkpoint(
                    self.out_dir,
                    self.state.step,
                    model=model,
                    optimizer=optimizer,
                    state=state,
                    write_model_files=self.job.write_model_files,
                    keep=self._is_permanent,
                )
        self.strategy.wait()
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint; cut the logs back to what it had written."""
        with self.strategy.main_first():  # only one may set a damaged one aside
            found = checkpoints.load_newest(self.out_dir)
        if found is None:
            self.state = TrainState(micro_batch=self.state.micro_batch)
            if self.job.initial_optimizer is not None:
                self.strategy.load(None, self.job.initial_optimizer)
        else:
            check_identity(found, self.job.identity)
            self.state = state_from_json(found.state["progress"])
            self._divergence_guard.skip_steps |= set(found.state["skip_steps"])
            self.strategy.load(found.model, found.optimizer)
            logger.info(f"going on from {found.path.name}")
            warn_of_other_arithmetic(found, self._arithmetic)
        self._stats = []
        self._metrics_logger.cut(self.state.log_bytes, self.state.samples_bytes)

    def _figures(self) -> dict[str, Any]:
        progress, best = self.state, self._resources.best_tokens_per_s
        return {
            "num_steps": progress.step,
            "tokens": progress.tokens,
            "micro_batch": progress.micro_batch,
            "num_skipped_steps": progress.num_skipped,
            "num_devices": self.world,
            "device": hardware.device_name(self.device),
            "precision": self.settings.precision,
            "training_seconds": progress.seconds,
            "mean_tokens_per_s": progress.tokens / max(progress.seconds, 1e-9),
            "best_tokens_per_s": best,
            "matmul_peak_flops_per_s": self.peak_flops_per_s,
            "mfu": self._utilisation(best),
            "energy_kwh": progress.energy.total_kwh,
            "joules_per_token": 3.6e6 * progress.energy.total_kwh / max(progress.tokens, 1),
        }


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
