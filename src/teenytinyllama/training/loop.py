"""The one training loop: accumulate, clip, step, log, evaluate, save, resume.

A room gives it a `Job`: a module whose forward is the summed loss of a micro-batch, and a pure
function from a step's number to its micro-batches. Everything that decides a result is a function
of (seed, step) or stands in the checkpoint, so a killed run that is started again ends in the
same bytes as one that was left alone. The host never waits for the device inside a step: losses
and norms stay there until a line is logged.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from teenytinyllama.context import RoomContext
from teenytinyllama.energy import Energy
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.progress import say
from teenytinyllama.training import checkpoints, hardware
from teenytinyllama.training.job import Job, LoopSettings, MicroBatch
from teenytinyllama.training.journal import Journal
from teenytinyllama.training.optimizer import (
    build_optimizers,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rates,
    step_if_finite,
)
from teenytinyllama.training.schedules import learning_rate_factor

MAX_BAD_IN_A_ROW = 3
MAX_ROLLBACKS = 3
SECONDS_BETWEEN_READINGS = 10.0


@dataclass
class Progress:
    """Everything a checkpoint must bring back beside weights and moments."""

    step: int = 0
    tokens: int = 0
    micro_batch: int = 0
    log_bytes: int = 0
    samples_bytes: int = 0
    pending: list[list[float]] = field(default_factory=list)
    """Loss, norm and skip flag of the steps since the last logged line."""
    energy: Energy = field(default_factory=Energy)
    seconds: float = 0.0
    bad_in_a_row: int = 0
    rollbacks: int = 0
    num_skipped: int = 0


class _RolledBack(Exception):  # noqa: N818 (a turn in the road, not a fault)
    """Raised inside the loop after a return to an earlier checkpoint."""


class Loop:
    """Trains one job in one folder. `run` may be called in a folder with unfinished work."""

    def __init__(
        self, job: Job, settings: LoopSettings, out_dir: Path, context: RoomContext
    ) -> None:
        self.job, self.settings, self.out_dir, self.context = job, settings, out_dir, context
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
        self.device: torch.device = self.accelerator.device
        self.is_main: bool = self.accelerator.is_main_process
        self.world: int = self.accelerator.num_processes
        hardware.check_precision(settings.precision, self.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.peak_flops_per_s = hardware.matmul_flops_per_s(
            hardware.compute_dtype(settings.precision), self.device
        )
        self._prepare_model()
        self.progress = Progress(micro_batch=settings.micro_batch or self._guess_micro_batch())
        self.stop_signal: str | None = None
        self._skip_steps: set[int] = set()
        self._stats: list[Tensor] = []
        self._best_rate = 0.0
        self._energy_read_at = 0.0
        self._journal = Journal(out_dir, context, settings, is_main=self.is_main)

    # --- preparation ---------------------------------------------------------------------------

    def _prepare_model(self) -> None:
        settings, job = self.settings, self.job
        if settings.precision == "bf16":
            job.objective.to(torch.bfloat16)
        job.objective.to(self.device)
        model = job.objective.model
        assert isinstance(model, nn.Module)
        self.model = model
        if settings.activation_checkpointing:
            self.model.gradient_checkpointing_enable(  # type: ignore[operator]
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        job.objective.train()
        compiled = settings.compile
        if compiled or (compiled is None and self.device.type == "cuda"):
            decoder = self.model.get_submodule(self.model.base_model_prefix)  # type: ignore[arg-type]
            decoder.compile(dynamic=False)
        self.optimizers = build_optimizers(
            self.model, settings.optimizer, compute_dtype=hardware.compute_dtype(settings.precision)
        )
        self.objective = self.accelerator.prepare_model(job.objective)

    def _guess_micro_batch(self) -> int:
        """Rows of one forward pass: a divisor of the step that should fit (else it is halved)."""
        rows = self.job.rows_per_step // self.world
        if rows * self.world != self.job.rows_per_step or rows == 0:
            raise UserError(
                "world-size",
                f"{self.world} processes",
                f"do not divide the {self.job.rows_per_step} rows of a step",
                f"start a divisor of {self.job.rows_per_step} processes, or change tokens_per_step",
            )
        if self.device.type == "cuda":
            config: Any = self.model.config
            layer = 28 * config.hidden_size + 8 * config.intermediate_size
            bytes_per_token = max(1, layer * config.num_hidden_layers)
            free, _ = torch.cuda.mem_get_info(self.device)
            max_tokens = min(int(0.6 * free) // bytes_per_token, 65_536)
        else:
            max_tokens = 2_048
        fitting = [n for n in _divisors(rows) if n * self.job.tokens_per_row <= max_tokens]
        return max(fitting, default=1)

    # --- running -------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train to the last step and return figures. Raises Interrupted when asked to stop."""
        if self.is_main:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            checkpoints.clean_up(self.out_dir)
        self.accelerator.wait_for_everyone()
        self._resume()
        self._check_disk()
        self._energy_zero = self.context.meter.read()
        self._energy_before = self.progress.energy
        self._seconds_before = self.progress.seconds
        self._started = self._saved_at = self._logged_at = time.monotonic()
        self._logged_tokens = self.progress.tokens
        with self._signals():
            while self.progress.step < self.settings.num_steps:
                try:
                    self._one_step()
                    self._after_step()
                except _RolledBack:
                    continue
        self._journal.close()
        return self._figures()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """While training, a stop signal only sets a flag: the step and its save come first."""

        def note(number: int, frame: Any) -> None:
            self.stop_signal = signal.Signals(number).name

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _one_step(self) -> None:
        step = self.progress.step
        if step in self._skip_steps:
            self._record(torch.full((3,), math.nan, device=self.device))
            return
        while True:
            try:
                batches = self.job.micro_batches(step, self.progress.micro_batch)
                total = sum(batch.weight for batch in batches)
                loss = self._gradients(step, self._mine(batches), total)
                break
            except torch.OutOfMemoryError:
                self._halve_micro_batch()
        norm = self._clip()
        found_inf = (~torch.isfinite(norm)).to(torch.float32)
        factor = learning_rate_factor(step, self.settings.schedule, self.settings.num_steps)
        set_learning_rates(self.optimizers, factor)
        step_if_finite(self.optimizers, found_inf)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.progress.tokens += sum(batch.num_tokens for batch in batches)
        self._record(torch.stack([loss, norm.to(torch.float32), found_inf]))

    def _mine(self, batches: Sequence[MicroBatch]) -> Sequence[tuple[int, MicroBatch]]:
        """Micro-batches of this process, with their number in the step."""
        if len(batches) % self.world:
            raise UserError(
                "world-size",
                f"{self.world} processes",
                f"do not divide the {len(batches)} micro-batches of a step",
                "set micro_batch so that every process gets as many",
            )
        return list(enumerate(batches))[self.accelerator.process_index :: self.world]

    def _gradients(
        self, step: int, batches: Sequence[tuple[int, MicroBatch]], total: float
    ) -> Tensor:
        """Gradients of the step's mean loss; returns this process's part of it, on the device.

        With two shards, one process sums the even and the odd micro-batches apart and then the
        two sums: the very additions that two processes make.
        """
        shards = self.settings.gradient_shards if self.world == 1 else 1
        if shards == 1:
            return self._accumulate(step, batches, total)
        loss = self._accumulate(step, batches[0::shards], total)
        first = {p: p.grad for p in self.model.parameters() if p.grad is not None}
        for parameter in first:
            parameter.grad = None
        loss = loss + self._accumulate(step, batches[1::shards], total)
        for parameter, gradient in first.items():
            assert parameter.grad is not None
            parameter.grad.add_(gradient)
        return loss

    def _accumulate(
        self, step: int, batches: Sequence[tuple[int, MicroBatch]], total: float
    ) -> Tensor:
        loss = torch.zeros((), device=self.device)
        for place, (index, batch) in enumerate(batches):
            torch.manual_seed(_mix_seed(self.settings.seed, step, index))
            tensors = {name: self._to_device(rows) for name, rows in batch.load().items()}
            # Set before the forward pass: set after it, replicas drift apart (facts.md).
            last = place == len(batches) - 1
            waiting = nullcontext() if last else self.accelerator.no_sync(self.objective)
            with waiting:
                with hardware.autocast(self.settings.precision, self.device):
                    part = self.objective(**tensors) / total
                # Data parallelism averages over processes; the mean above is already over all.
                (part * self.world if self.world > 1 else part).backward()
            loss += part.detach()
        return loss

    def _to_device(self, rows: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(rows))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _clip(self) -> Tensor:
        limit = self.settings.optimizer.max_grad_norm or math.inf
        norm: Tensor = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit, foreach=True)
        return norm

    def _halve_micro_batch(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        rows = self.progress.micro_batch
        if rows == 1:
            raise UserError(
                "out-of-memory",
                f"micro_batch = 1 x {self.job.tokens_per_row} tokens",
                "does not fit on the device",
                "--set pretrain.activation_checkpointing=true, or a shorter sequence_length",
            )
        torch.cuda.empty_cache()
        smaller = [n for n in _divisors(self.job.rows_per_step // self.world) if n < rows]
        self.progress.micro_batch = max(smaller)
        say(f"out of memory with micro_batch = {rows}; going on with {self.progress.micro_batch}")

    # --- after a step --------------------------------------------------------------------------

    def _record(self, stats: Tensor) -> None:
        self._stats.append(stats)
        self.progress.step += 1

    def _after_step(self) -> None:
        settings, step = self.settings, self.progress.step
        last = step == settings.num_steps
        figures: dict[str, float] = {}
        if self.job.evaluate and (last or _due(step, settings.evaluate_every_steps)):
            self._fetch()
            with hardware.autocast(settings.precision, self.device):
                figures = self._out_of_training(self.job.evaluate)
        if last or figures or _due(step, settings.log_every_steps):
            self._log(figures)
        if self.job.sample and (last or _due(step, settings.sample_every_steps)):
            self._write_samples()
        if self._should_save(last):
            self._fetch()
            self._save()
        if self.stop_signal:
            raise Interrupted(f"{self.stop_signal} after step {self.progress.step}")

    def _should_save(self, last: bool) -> bool:
        plan, step = self.settings.checkpoints, self.progress.step
        by_time = time.monotonic() - self._saved_at >= 60 * plan.every_minutes
        now = bool(self.stop_signal) or by_time
        if self.world > 1:
            # Clocks and signals differ between processes; they must agree, and seldom have to.
            if not _due(step, self.settings.log_every_steps):
                now = False
            else:
                flag = torch.tensor([float(now)], device=self.device)
                now = bool(self.accelerator.reduce(flag, "sum") > 0)
        return last or now or _due(step, plan.every_steps) or self._is_permanent(step)

    def _is_permanent(self, step: int) -> bool:
        every = self.settings.checkpoints.permanent_every_steps
        return _due(step, every) or (bool(every) and step == self.settings.num_steps)

    def _fetch(self) -> None:
        """Bring losses and norms of the last steps to the host: the one place that waits."""
        if not self._stats:
            return
        stats = torch.stack(self._stats)
        if self.world > 1:
            losses = self.accelerator.reduce(stats[:, 0].contiguous(), "sum")
            stats = torch.cat([losses[:, None], stats[:, 1:]], dim=1)
        rows = stats.tolist()
        first = self.progress.step - len(rows)
        self._stats = []
        for offset, row in enumerate(rows):
            self.progress.pending.append(row)
            is_bad = bool(row[2])
            if is_bad:
                self._note_skipped(first + offset)
            known = first + offset in self._skip_steps
            self.progress.bad_in_a_row = (
                self.progress.bad_in_a_row + 1 if is_bad and not known else 0
            )
        self._roll_back_if_lost()

    def _note_skipped(self, step: int) -> None:
        self.progress.num_skipped += 1
        record = {"step": step, **(self.job.describe_step(step) if self.job.describe_step else {})}
        if step not in self._skip_steps:
            self._journal.skipped(record)

    def _roll_back_if_lost(self) -> None:
        num_bad, last = self.progress.bad_in_a_row, self.progress.step
        if num_bad < MAX_BAD_IN_A_ROW:
            return
        rollbacks = self.progress.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise UserError(
                "training-diverged",
                f"step {last}",
                f"the gradient is not finite, after {MAX_ROLLBACKS} returns to a checkpoint",
                "lower optimizer.peak_learning_rate, or look at the rows in skipped.jsonl",
            )
        if not checkpoints.list_checkpoints(self.out_dir):
            raise UserError(
                "training-diverged",
                f"step {last}",
                f"{num_bad} gradients in a row are not finite, and nothing is saved yet",
                "lower optimizer.peak_learning_rate, or look at the rows in skipped.jsonl",
            )
        say(f"{num_bad} bad steps in a row: back to the last checkpoint (return no. {rollbacks})")
        self._skip_steps |= set(range(last - num_bad, last))
        self._update_energy()
        spent, seconds = self.progress.energy, self.progress.seconds
        self._resume()
        self.progress.rollbacks = rollbacks
        self._energy_before, self._seconds_before = spent, seconds
        self._energy_zero, self._started = self.context.meter.read(), time.monotonic()
        self._logged_tokens, self._logged_at = self.progress.tokens, time.monotonic()
        raise _RolledBack

    def _out_of_training(self, work: Callable[[nn.Module], Any]) -> Any:
        self.model.eval()
        try:
            with (
                torch.no_grad(),
                # Documents of every length would each be compiled anew.
                torch.compiler.set_stance("force_eager"),
            ):
                return work(self.model)
        finally:
            self.model.train()

    def _log(self, figures: dict[str, float]) -> None:
        self._fetch()
        progress, now = self.progress, time.monotonic()
        counted = [row for row in progress.pending if not row[2]]
        progress.pending = []
        self._update_energy(now=progress.step == self.settings.num_steps)
        tokens_per_s = (progress.tokens - self._logged_tokens) / max(now - self._logged_at, 1e-9)
        self._logged_tokens, self._logged_at = progress.tokens, now
        line = {
            "step": progress.step,
            "tokens": progress.tokens,
            "loss": _mean([row[0] for row in counted]),
            "lr": self.optimizers[-1].param_groups[0]["lr"],
            "grad_norm": _mean([row[1] for row in counted]),
            **figures,
            "tokens_per_s": round(tokens_per_s, 1),
            "mfu": round(self._utilisation(tokens_per_s), 4),
            "energy_kwh": progress.energy.total_kwh,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        progress.log_bytes = self._journal.metrics(line)
        elapsed = now - self._started
        share = (progress.step - self._first_step) / (self.settings.num_steps - self._first_step)
        self._journal.show(
            line,
            seconds_left=elapsed * (1 - share) / share,
            seconds=progress.seconds,
            at_once=bool(figures),
        )
        self._best_rate = max(self._best_rate, tokens_per_s)
        # Evaluation and samples are not training time.
        self._logged_at = time.monotonic()

    def _utilisation(self, tokens_per_s: float) -> float:
        return tokens_per_s * self.job.flops_per_token / (self.peak_flops_per_s * self.world)

    def _update_energy(self, *, now: bool = True) -> None:
        """Bring energy and seconds up to date; a reading costs 0.1 s, so a log line may be late."""
        self.progress.seconds = self._seconds_before + time.monotonic() - self._started
        if not now and time.monotonic() - self._energy_read_at < SECONDS_BETWEEN_READINGS:
            return
        used = self.context.meter.read().since(self._energy_zero)
        self._energy_read_at = time.monotonic()
        self.progress.energy = Energy(
            *(a + b for a, b in zip(self._energy_before, used, strict=True))
        )

    def _write_samples(self) -> None:
        assert self.job.sample is not None
        rows = self._out_of_training(self.job.sample)
        where = {"step": self.progress.step, "tokens": self.progress.tokens}
        self.progress.samples_bytes = self._journal.samples([{**where, **row} for row in rows])
        self._logged_at = time.monotonic()

    # --- checkpoints ---------------------------------------------------------------------------

    def _save(self) -> None:
        self._update_energy()
        if self.is_main:
            state = {
                "identity": dict(self.job.identity),
                "progress": _progress_to_json(self.progress),
                "skip_steps": sorted(self._skip_steps),
            }
            checkpoints.save_checkpoint(
                self.out_dir,
                self.progress.step,
                model=self.model.state_dict(),
                optimizer=optimizer_tensors(self.model, self.optimizers),
                state=state,
                write_model_files=self.job.write_model_files,
                keep=self._is_permanent,
            )
        self.accelerator.wait_for_everyone()
        self._saved_at = self._logged_at = time.monotonic()

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint; cut the logs back to what it had written."""
        with self.accelerator.main_process_first():  # only one may set a damaged one aside
            found = checkpoints.load_newest(self.out_dir)
        if found is None:
            self.progress = Progress(micro_batch=self.progress.micro_batch)
            if self.job.initial_optimizer is not None:
                load_optimizer_tensors(self.model, self.optimizers, self.job.initial_optimizer)
        else:
            _check_identity(found, self.job.identity)
            self.progress = _progress_from_json(found.state["progress"])
            self._skip_steps |= set(found.state["skip_steps"])
            self.model.load_state_dict(found.model, strict=not _ties_weights(self.model))
            load_optimizer_tensors(self.model, self.optimizers, found.optimizer)
            say(f"going on from {found.path.name}")
        self._stats = []
        self._first_step = self.progress.step
        self._journal.cut(self.progress.log_bytes, self.progress.samples_bytes)

    def _check_disk(self) -> None:
        """Say before the first step what would otherwise be found out at the last."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        size = 3 * weights
        every = self.settings.checkpoints.permanent_every_steps
        permanent = (self.settings.num_steps - self.progress.step) // every if every else 0
        need = size * (checkpoints.NUM_ROLLING_KEPT + 1 + permanent) + weights
        free = shutil.disk_usage(self.out_dir).free
        if need > free:
            raise UserError(
                "disk-too-small",
                str(self.out_dir),
                f"checkpoints will need {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
                "free space, choose another --run-dir, or keep fewer permanent checkpoints",
            )

    def _figures(self) -> dict[str, Any]:
        progress = self.progress
        return {
            "num_steps": progress.step,
            "tokens": progress.tokens,
            "micro_batch": progress.micro_batch,
            "num_skipped_steps": progress.num_skipped,
            "num_devices": self.world,
            "device": _device_name(self.device),
            "precision": self.settings.precision,
            "training_seconds": progress.seconds,
            "mean_tokens_per_s": progress.tokens / max(progress.seconds, 1e-9),
            "best_tokens_per_s": self._best_rate,
            "matmul_peak_flops_per_s": self.peak_flops_per_s,
            "mfu": self._utilisation(self._best_rate),
            "energy_kwh": progress.energy.total_kwh,
            "joules_per_token": 3.6e6 * progress.energy.total_kwh / max(progress.tokens, 1),
        }


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mix_seed(seed: int, step: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)[0] >> 1)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"


def _ties_weights(model: nn.Module) -> bool:
    config: Any = model.config
    return bool(getattr(config, "tie_word_embeddings", False))


def _progress_to_json(progress: Progress) -> dict[str, Any]:
    return {**vars(progress), "energy": list(progress.energy)}


def _progress_from_json(value: dict[str, Any]) -> Progress:
    return Progress(**{**value, "energy": Energy(*value["energy"])})


def _check_identity(found: checkpoints.Checkpoint, identity: Mapping[str, str]) -> None:
    saved = found.state["identity"]
    rows = [
        f"{k}: {saved.get(k)} there, {v} here" for k, v in identity.items() if saved.get(k) != v
    ]
    if rows:
        raise UserError(
            "checkpoint-differs",
            str(found.path),
            "belongs to another training (" + "; ".join(rows) + ")",
            "use the same data, tokenizer and sizes, or --redo to start anew",
        )
