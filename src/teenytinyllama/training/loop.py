"""The one training loop: accumulate, clip, step, log, evaluate, save, resume.

Everything that decides a result is a function of (seed, step) or is in the checkpoint, so a killed
run that is started again ends in the same bytes as one that was never stopped. The host never
waits for the device inside a step: losses and norms stay there until a line is logged.

The files that one batch goes through:

    task.py               what a stage trains: rows of a step -> micro-batches -> loss
    data_order.py         which rows make a step
    micro_batches.py      micro-batches -> gradients of the step
    losses.py             next-token loss that never holds all logits
    second_token.py       what a loss on the token after next adds to the model
    distributed.py        how processes share the weights: clip, update, gather for a save
    optimizers.py         AdamW, Muon, and the learning rate of a step
    averaging.py          copies of the weights: averages, the best so far
    divergence_guard.py   gradients that are not finite, held-out loss that rises again
    train_state.py        what a checkpoint holds beside the tensors
    checkpoints.py        how it is written and read
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf, nan
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from teenytinyllama import datasheets, hardware, signals
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.modeling.causal_attention import kernel_name
from teenytinyllama.training import checkpoints
from teenytinyllama.training.averaging import WeightCopies, epoch_ends, split_copies
from teenytinyllama.training.checkpoints import Checkpoint
from teenytinyllama.training.distributed import DDPStrategy
from teenytinyllama.training.divergence_guard import DivergenceGuard, first_overfit
from teenytinyllama.training.interruption import Watchdog
from teenytinyllama.training.metrics_logger import MetricsLogger
from teenytinyllama.training.micro_batches import (
    Shortage,
    first_micro_batch,
    recompute_activations,
    smaller_micro_batch,
    step_gradients,
)
from teenytinyllama.training.optimizers import learning_rate_factor, set_learning_rates
from teenytinyllama.training.progress_display import ProgressDisplay
from teenytinyllama.training.resource_tracker import ResourceTracker
from teenytinyllama.training.second_token import (
    find_second_token,
    hide_second_token,
    without_second_token,
)
from teenytinyllama.training.task import HELDOUT, MicroBatch, TrainSettings, TrainTask
from teenytinyllama.training.train_state import (
    TrainState,
    check_identity,
    check_ranks,
    numerics_of,
    warn_of_other_numerics,
)

logger = logging.getLogger(__name__)


class _DivergedError(Exception):
    """The weights are diverging: the last checkpoint must be loaded."""


class TrainLoop:
    """Trains one task in one folder, from the newest checkpoint there if there is one."""

    def __init__(
        self,
        task: TrainTask,
        settings: TrainSettings,
        strategy: DDPStrategy,
        out_dir: Path,
        meter: EnergyMeter,
    ) -> None:
        self.task, self.settings, self.strategy, self.out_dir = task, settings, strategy, out_dir
        self.state = TrainState(micro_batch=first_micro_batch(task, strategy, settings))
        self.stop_signal: str | None = None
        self._shortage = Shortage()
        self._unread: list[Tensor] = []  # loss, norm and skip flag of steps, still on the device
        self._saved_at = 0.0
        self._peak_flops_per_s = 0.0
        self._attention_kernel = ""
        self._numerics = numerics_of(strategy, settings)
        self._metrics_logger = MetricsLogger(out_dir, settings, is_main=strategy.is_main)
        self._display = ProgressDisplay(
            out_dir, settings, strategy.device, is_main=strategy.is_main
        )
        self._guard = DivergenceGuard(self._metrics_logger, task.describe_step)
        self._resources = ResourceTracker(meter, strategy.processes)
        self._watchdog = Watchdog()
        self._epoch_ends = _epoch_ends(task, settings)
        self._copies = self._make_copies()

    def run(self) -> dict[str, Any]:
        """Train to the last step and return metrics. Raises Interrupted when asked to stop."""
        settings, strategy = self.settings, self.strategy
        dtype = hardware.compute_dtype(settings.precision, strategy.device)
        self._peak_flops_per_s = hardware.matmul_flops_per_s(dtype, strategy.device)
        with strategy.step_kernels():
            self._attention_kernel = kernel_name(
                self.task.model, strategy.device, dtype, self.task.tokens_per_row
            )
        if strategy.is_main and strategy.device.type == "cuda":
            logger.info(f"attention: {self._attention_kernel}")
        precision = hardware.precision_on(strategy.device, settings.precision)
        if strategy.is_main and precision != settings.precision:
            logger.info(f"precision: {precision}, this CPU has no kernels for bfloat16")
        if strategy.is_main:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            checkpoints.clean_up(self.out_dir)
        strategy.processes.wait()
        try:
            with strategy.steady_memory():
                self._resume()
                check_ranks(strategy.processes, self.state, self.task.identity)
                self._check_disk()
                state = self.state
                self._resources.begin(state, energy=state.energy, seconds=state.seconds)
                self._saved_at = time.monotonic()
                with signals.taken(self._ask_to_stop), self._watchdog.running():
                    while self.state.step < settings.num_steps and not self._must_stop():
                        try:
                            together = f"step {self.state.step}", strategy.processes
                            with (
                                strategy.step_kernels(),
                                self._watchdog.watch_together(*together),
                            ):
                                self._train_step()
                            self._after_step()
                        except _DivergedError:
                            self._roll_back()
                choice = self._choose_weights() if settings.keep_best else {}
        finally:
            self._display.close()
            self._metrics_logger.close()
            checkpoints.finish_removals()
            self.strategy.release_memory()
        return {**self._metrics(), **choice}

    def _ask_to_stop(self, signal_name: str) -> None:
        self.stop_signal = signal_name

    # --- one step ------------------------------------------------------------------------------

    def _train_step(self) -> None:
        strategy, settings, step = self.strategy, self.settings, self.state.step
        if step in self._guard.skip_steps:
            self._unread.append(torch.full((3,), nan, device=strategy.device))
        else:
            loss = self._gradients(step)
            norm = strategy.grad_norm()
            found_inf = (~torch.isfinite(norm)).to(torch.float32)
            factor = learning_rate_factor(step, settings.schedule, settings.num_steps)
            set_learning_rates(strategy.optimizers, factor)
            strategy.step(norm, found_inf)
            self._unread.append(torch.stack([loss, norm.to(torch.float32), found_inf]))
        self.state.step += 1
        self._copies.update(self.state.step)

    def _gradients(self, step: int) -> Tensor:
        """Run the forward and backward passes; halve a micro-batch that does not fit."""
        self.state.micro_batch = self._shortage.rows_now(self.state.micro_batch, step)
        while True:
            batches = self.task.batches(step, self.state.micro_batch, self.strategy.world_size)
            try:
                loss = step_gradients(self.strategy, self.settings, step, batches, self._load)
            except torch.OutOfMemoryError:
                self._use_less_memory()
            else:
                self.state.tokens += sum(batch.num_tokens for batch in batches)
                return loss

    def _load(self, batch: MicroBatch) -> Mapping[str, NDArray[Any]]:
        with self._watchdog.watch(f"reading the rows of step {self.state.step}"):
            return batch.load()

    def _use_less_memory(self) -> None:
        """Smaller micro-batches; recomputed activations where one row does not fit."""
        rows = self.state.micro_batch
        self.strategy.zero_grad()
        if rows == 1 and self.strategy.world_size == 1 and recompute_activations(self.task.model):
            logger.info("out of memory with one row: activations are recomputed from now on")
        else:
            self.state.micro_batch = smaller_micro_batch(self.task, rows, self.strategy.world_size)
            self._shortage.halved(rows, self.state.step)
            logger.info(
                f"out of memory at micro_batch {rows}, retrying with {self.state.micro_batch}"
            )
        torch.cuda.empty_cache()

    # --- after a step --------------------------------------------------------------------------

    def _after_step(self) -> None:
        settings, step = self.settings, self.state.step
        is_last = step == settings.num_steps
        scores: dict[str, float] = {}
        if is_last or _due(step, settings.evaluate_every_steps) or step in self._epoch_ends:
            scores = self._evaluate()
            is_last = is_last or self._must_stop()
        is_logged = is_last or bool(scores) or _due(step, settings.log_every_steps)
        seconds_left = self._resources.seconds_left(self.state, settings.num_steps)
        self._display.show_step(step, self._resources.seconds(), seconds_left, is_logged=is_logged)
        if is_logged:
            self._log(scores)
        if is_last or _due(step, settings.sample_every_steps):
            self._write_samples()
        stop, is_time = self._agree()
        by_step = _due(step, settings.checkpoints.every_steps) or self._is_permanent(step)
        if stop or is_time or by_step or is_last:
            self._read_losses()
            with self._resources.paused():
                self._save()
        if stop:
            raise Interrupted(f"{stop} after step {step}")

    def _agree(self) -> tuple[str | None, bool]:
        """The signal to obey now, and whether the clock asks for a save.

        The flag is read here once: a signal that comes a moment later waits for the next step, and
        none can fall between the question whether to save and the one whether to stop. Signals and
        clocks differ between processes, which agree on them after every step, through their hosts:
        devices go on.
        """
        stop = self.stop_signal
        waited = time.monotonic() - self._saved_at
        is_time = waited >= 60 * self.settings.checkpoints.every_minutes
        flags = [float(stop is not None), float(is_time)]
        stops, times = self.strategy.processes.largest(flags)
        return (stop or "a signal to another process") if stops else None, bool(times)

    def _is_permanent(self, step: int) -> bool:
        every = self.settings.checkpoints.permanent_every_steps
        return _due(step, every) or (bool(every) and step == self.settings.num_steps)

    def _read_losses(self) -> None:
        """Bring losses and norms of the last steps to the host: the one place that waits.

        Raises _DivergedError after too many bad steps in a row.
        """
        if not self._unread:
            return
        stats = torch.stack(self._unread)
        self._unread = []
        if self.strategy.world_size > 1:
            losses = self.strategy.sum(stats[:, 0].contiguous())
            stats = torch.cat([losses[:, None], stats[:, 1:]], dim=1)
        rows = stats.tolist()
        self.state.pending += rows
        self._guard.count(rows, self.state)
        if self._guard.must_roll_back(self.state, self.out_dir):
            raise _DivergedError

    def _roll_back(self) -> None:
        """Return to the last checkpoint; time and energy stay counted."""
        self._resources.update(self.state)
        lost = self.state
        self._resume()
        self.state.rollbacks = lost.rollbacks + 1
        self._resources.begin(self.state, energy=lost.energy, seconds=lost.seconds)

    # --- evaluation, samples and the log -------------------------------------------------------

    def scores(self) -> dict[str, float]:
        """The task's held-out scores of the weights as they are."""
        with hardware.autocast(self.settings.precision, self.strategy.device):
            found: dict[str, float] = self._with_whole_model(self.task.evaluate)
        return found

    def _evaluate(self) -> dict[str, float]:
        self._read_losses()
        with self._resources.paused():
            scores = self.scores()
        if scores:
            self.state.evaluations.append({"step": self.state.step, **scores})
            self._compare_with_best()
        return scores

    # --- overfitting, and the weights that are kept --------------------------------------------

    def _heldout(self) -> list[float]:
        return [row[HELDOUT] for row in self.state.evaluations if HELDOUT in row]

    def _compare_with_best(self) -> None:
        """Keep the weights if they are the best so far; say it once when they overfit."""
        losses, settings = self._heldout(), self.settings
        if settings.keep_best and losses and losses[-1] < min(losses[:-1], default=inf):
            self._copies.keep_best()
        if first_overfit(losses, settings.overfitting_margin) == len(losses) - 1:
            what = "it stops here" if settings.stop_when_overfitting else "it continues"
            logger.warning(
                f"overfitting at step {self.state.step}: held-out {losses[-1]:.4f} bits/byte, "
                f"{min(losses):.4f} at best; {what} (docs/little-text.md)"
            )

    def _must_stop(self) -> bool:
        settings = self.settings
        if not settings.stop_when_overfitting:
            return False
        return first_overfit(self._heldout(), settings.overfitting_margin) is not None

    def _make_copies(self) -> WeightCopies:
        settings = self.settings
        if settings.keep_best and type(self.strategy) is not DDPStrategy:
            raise UserError(
                "averaging-not-sharded",
                'checkpoints.keep_weights = "best"',
                "copies of the weights cannot be kept where they are sharded",
                'use "last", or start with recipes/accelerate/ddp.yaml',
            )
        last = self._epoch_ends[-settings.average_epochs :] if settings.average_epochs else []
        return WeightCopies(
            self.task.model,
            ema_decay=settings.ema_decay,
            keeps_best=settings.keep_best,
            kept_steps={step: f"step-{step}" for step in last},
        )

    def _choose_weights(self) -> dict[str, Any]:
        """Score every copy on held-out text and give the model the best; scores for the metrics."""
        scores: dict[str, float] = {}
        copies = dict(self._copies.candidates())
        for label, weights in copies.items():
            self._copies.put(weights)
            with hardware.autocast(self.settings.precision, self.strategy.device):
                found = self._with_whole_model(self.task.score_heldout)
            if found is not None:
                scores[label] = found
        kept = min(scores, key=lambda label: scores[label], default="last step")
        self._copies.put(copies[kept])
        logger.info(f"kept the weights of the {kept}")
        return {"kept_weights": kept, "heldout_bpb_of_weights": scores}

    def _write_samples(self) -> None:
        with self._resources.paused():
            rows = self._with_whole_model(self.task.sample)
            where = {"step": self.state.step, "tokens": self.state.tokens}
            lines = [{**where, **row} for row in rows]
            self.state.samples_bytes = self._metrics_logger.log_samples(lines)
            self._display.show_sample(rows)

    def _with_whole_model(self, work: Callable[[nn.Module], Any]) -> Any:
        with self.strategy.whole_model() as model, torch.no_grad():
            model.eval()
            try:
                return work(model)
            finally:
                model.train()

    def _log(self, scores: Mapping[str, float]) -> None:
        self._read_losses()
        tokens_per_s = self._resources.rate(self.state)
        with self._resources.paused():
            self._write_line(scores, tokens_per_s)

    def _write_line(self, scores: Mapping[str, float], tokens_per_s: float) -> None:
        state, num_steps = self.state, self.settings.num_steps
        counted = [row for row in state.pending if not row[2]]
        state.pending = []
        self._resources.update(state, now=state.step == num_steps)
        line = {
            "step": state.step,
            "tokens": state.tokens,
            "loss": _mean([row[0] for row in counted]),
            "lr": self.strategy.optimizers[-1].param_groups[0]["lr"],
            "grad_norm": _mean([row[1] for row in counted]),
            **scores,
            "tokens_per_s": round(tokens_per_s, 1),
            **self._utilisation(tokens_per_s),
            "energy_kwh": state.energy.total_kwh,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        state.log_bytes = self._metrics_logger.log_metrics(line)
        self._display.show_line(line, is_last=state.step == num_steps)

    def _utilisation(self, tokens_per_s: float) -> dict[str, float | None]:
        """`mfu`: model FLOPs over the data sheet's peak of all devices, None where it is not known.

        Beside it their share of what one large matrix product reaches here.
        """
        world_size = self.strategy.world_size
        rate = tokens_per_s * self.task.flops_per_token / world_size
        peak = datasheets.peak_tflops(hardware.device_name(self.strategy.device))
        return {
            "mfu": None if peak is None else round(rate / (peak * 1e12), 4),
            "share_of_measured_peak": round(rate / self._peak_flops_per_s, 4),
        }

    # --- checkpoints ---------------------------------------------------------------------------

    def _check_disk(self) -> None:
        every, left = self.settings.checkpoints.permanent_every_steps, self.settings.num_steps
        checkpoints.check_disk(
            self.out_dir,
            weights_bytes=sum(p.numel() * p.element_size() for p in self.task.model.parameters()),
            num_permanent=(left - self.state.step) // every if every else 0,
            num_copies=self._copies.max_number,
        )

    def _save(self) -> None:
        self._resources.update(self.state)
        if self.strategy.loss_scale is not None:
            self.state.loss_scale = self.strategy.loss_scale.to_json()
        weights, optimizer = self.strategy.tensors()
        model, auxiliary = hide_second_token(weights)
        optimizer |= self._copies.tensors() | auxiliary
        if self.strategy.is_main:
            saved = {
                "identity": dict(self.task.identity),
                "numerics": self._numerics,
                "progress": self.state.to_json(),
                "skip_steps": sorted(self._guard.skip_steps),
            }
            size = sum(tensor.nbytes for tensor in (*model.values(), *optimizer.values()))
            with self._watchdog.watch(f"saving step {self.state.step}", num_bytes=size):
                self._metrics_logger.sync()
                checkpoints.save_checkpoint(
                    self.out_dir,
                    self.state.step,
                    model=model,
                    optimizer=optimizer,
                    state=saved,
                    write_model_files=self.task.write_model_files,
                    keep=self._is_permanent,
                )
        self.strategy.processes.wait()
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        """Load the newest valid checkpoint; cut the logs back to what had been written then."""
        found = self._load_newest()
        if found is None:
            self.state = TrainState(micro_batch=self.state.micro_batch)
            self._copies.load({})
            if self.task.initial_optimizer is not None:
                moments, _ = split_copies(self.task.initial_optimizer)
                self.strategy.load(None, without_second_token(moments))
        else:
            logger.info(f"resuming from {found.path.name}")
            warn_of_other_numerics(found, self._numerics)
        self._unread = []
        self._metrics_logger.truncate(self.state.log_bytes, self.state.samples_bytes)

    def _load_newest(self) -> Checkpoint | None:
        """Load the newest checkpoint that holds what this training needs."""
        while True:
            # Only one process may set a damaged one aside.
            with self.strategy.processes.leader_first():
                found = checkpoints.load_newest(self.out_dir)
            if found is None:
                return None
            try:
                check_identity(found, self.task.identity)
                state = TrainState.from_json(found.state["progress"])
                # Of these devices and as many processes as there are now.
                state.micro_batch = self.state.micro_batch
                if self.strategy.loss_scale is not None:
                    self.strategy.loss_scale.load(state.loss_scale)
                moments, copies = split_copies(found.optimizer)
                moments, auxiliary = find_second_token(moments)
                if not moments and state.num_skipped < state.step:
                    raise ValueError(f"{checkpoints.OPTIMIZER_NAME} holds no moments")
                skip_steps = set(found.state["skip_steps"])
                self.strategy.load(found.model | auxiliary, moments)
                self._copies.load(copies)
            except torch.OutOfMemoryError:
                raise
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                if not self.strategy.is_main:
                    raise
                what = f"it lacks what this training needs ({type(error).__name__}: {error})"
                checkpoints.set_aside(found.path, what.splitlines()[0])
            else:
                self.state = state
                self._guard.skip_steps |= skip_steps
                return found

    def _metrics(self) -> dict[str, Any]:
        state, best = self.state, self._resources.best_tokens_per_s
        mean = state.tokens / max(state.seconds, 1e-9)
        return {
            "num_steps": state.step,
            "tokens": state.tokens,
            "micro_batch": state.micro_batch,
            "num_skipped_steps": state.num_skipped,
            "num_devices": self.strategy.world_size,
            "device": hardware.device_name(self.strategy.device),
            "precision": hardware.precision_on(self.strategy.device, self.settings.precision),
            "attention_kernel": self._attention_kernel,
            "training_seconds": state.seconds,
            # Over the whole training, evaluations and saves left out; `best_...`: the fastest
            # window between two lines of the log.
            "mean_tokens_per_s": mean,
            **self._utilisation(mean),
            "best_tokens_per_s": best,
            "matmul_peak_flops_per_s": self._peak_flops_per_s,
            "energy_kwh": state.energy.total_kwh,
            "joules_per_token": 3.6e6 * state.energy.total_kwh / max(state.tokens, 1),
        }


def _epoch_ends(task: TrainTask, settings: TrainSettings) -> list[int]:
    """Ends of epochs where there are several."""
    if not settings.rows_per_epoch:
        return []
    ends = epoch_ends(settings.rows_per_epoch, task.order.rows_per_step, settings.num_steps)
    return ends if len(ends) > 1 else []


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
