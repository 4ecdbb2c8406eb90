"""What a training writes down as it goes, and the line that people see.

    metrics.jsonl   one object per logged step; the local file is the truth, trackers mirror it
    samples.jsonl   continuations of fixed prompts
    skipped.jsonl   steps whose gradient was not finite, with the rows behind them

The first two are cut back to what a checkpoint had seen when a training goes on from it, so that
a killed run's log ends as one that was left alone.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import sync_folder
from teenytinyllama.errors import missing_extra
from teenytinyllama.progress import format_duration
from teenytinyllama.training.task import TrainSettings

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"
SKIPPED_NAME = "skipped.jsonl"
SECONDS_BETWEEN_LINES = 5.0
SECONDS_OF_SILENCE = 30.0
MAX_WAITING_LINES = 10_000
SECONDS_TO_CLOSE = 10.0

Line = dict[str, Any]
Mirror = tuple[Callable[[Line], None], Callable[[], None]]
"""What writes a line, and what closes the mirror."""


class MetricsLogger:
    """The logs of one training. Only the main process writes; the others' calls do nothing."""

    def __init__(self, out_dir: Path, settings: TrainSettings, *, is_main: bool) -> None:
        self.out_dir, self.settings, self.is_main = out_dir, settings, is_main
        names = settings.trackers if is_main else ()
        self._trackers = Trackers(names, out_dir, settings.run_name)
        self._shown_at = 0.0
        self._heard_at = time.monotonic()

    def metrics(self, line: dict[str, Any]) -> int:
        """Append a line to `metrics.jsonl` and its mirrors; returns the file's length after it."""
        if not self.is_main:
            return 0
        length = append_line(self.out_dir / METRICS_NAME, line)
        self._trackers.log(line)
        return length

    def samples(self, rows: Sequence[dict[str, Any]]) -> int:
        """Append continuations; returns the file's length after them."""
        length = 0
        for row in rows if self.is_main else ():
            length = append_line(self.out_dir / SAMPLES_NAME, row)
        return length

    def skipped(self, record: dict[str, Any]) -> None:
        """Name a step that was skipped, to people and in `skipped.jsonl`."""
        if self.is_main:
            step = record["step"]
            logger.info(
                f"step {step}: gradient not finite, update skipped ({SKIPPED_NAME} names its rows)"
            )
            append_line(self.out_dir / SKIPPED_NAME, record)

    def cut(self, metrics_bytes: int, samples_bytes: int) -> None:
        """Back to the lengths that a checkpoint had seen."""
        if self.is_main:
            _truncate(self.out_dir / METRICS_NAME, metrics_bytes)
            _truncate(self.out_dir / SAMPLES_NAME, samples_bytes)

    def sync(self) -> None:
        """Put the logs on the disk: no checkpoint may count on lines that a power cut takes."""
        for name in (METRICS_NAME, SAMPLES_NAME) if self.is_main else ():
            sync_log(self.out_dir / name)

    def show(
        self, line: dict[str, Any], *, seconds_left: float, seconds: float, at_once: bool
    ) -> None:
        """One line for people, at most every five seconds unless it must be seen `at_once`."""
        now = time.monotonic()
        if not self.is_main or (now - self._shown_at < SECONDS_BETWEEN_LINES and not at_once):
            return
        self._shown_at = self._heard_at = now
        loss = "-" if line["loss"] is None else f"{line['loss']:.3f}"
        heldout = f", held-out {line['heldout_bpb']:.4f} bits/byte" if "heldout_bpb" in line else ""
        price = self.settings.usd_per_gpu_hour * seconds / 3600
        money = f", ${price:.2f}" if price else ""
        logger.info(
            f"  step {line['step']}/{self.settings.num_steps}, loss {loss}{heldout}, "
            f"{line['tokens_per_s']:,.0f} tokens/s, MFU {100 * line['mfu']:.0f} %, "
            f"{line['energy_kwh'] * 1000:.2f} Wh{money}, {format_duration(seconds_left)} left"
        )

    def pulse(self, step: int, *, seconds_left: float) -> None:
        """A sign of life where steps are slow and none is logged for half a minute.

        It has no loss: to show one, the host would have to wait for the device.
        """
        now = time.monotonic()
        if not self.is_main or now - self._heard_at < SECONDS_OF_SILENCE:
            return
        self._heard_at = now
        every = self.settings.log_every_steps
        logger.info(
            f"  step {step}/{self.settings.num_steps}, {format_duration(seconds_left)} left "
            f"(loss and speed are shown every {every} steps)"
        )

    def close(self) -> None:
        """Let the mirrors finish."""
        self._trackers.close()


def append_line(path: Path, value: dict[str, Any]) -> int:
    """Append one JSON line; returns the file's length after it."""
    with path.open("ab") as file:
        file.write((json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8"))
        return file.tell()


def sync_log(path: Path) -> None:
    """Put a log that is only appended to on the disk, and its name; where there is one."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)


def _truncate(path: Path, length: int) -> None:
    if path.is_file() and path.stat().st_size > length:
        os.truncate(path, length)


class Trackers:
    """The mirrors of one training."""

    def __init__(self, names: Sequence[str], out_dir: Path, run_name: str) -> None:
        for name in names:
            if find_spec(name) is None:
                raise missing_extra(name, "track")
        self._threads = [_MirrorThread(name, out_dir, run_name) for name in names]

    def log(self, line: Line) -> None:
        """Pass one logged line on; returns at once."""
        for thread in self._threads:
            thread.pass_on(line)

    def close(self) -> None:
        """Let every mirror finish, or leave it after ten seconds."""
        for thread in self._threads:
            thread.close()


class _MirrorThread:
    """Opens one mirror and feeds it, where nobody waits for it."""

    def __init__(self, name: str, out_dir: Path, run: str) -> None:
        self.name = name
        self._lines: queue.Queue[Line | None] = queue.Queue(MAX_WAITING_LINES)
        self._is_full = False
        self._thread = threading.Thread(
            target=self._work, args=(out_dir, run), name=f"tracker {name}", daemon=True
        )
        self._thread.start()

    def pass_on(self, line: Line | None) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            if not self._is_full:
                logger.info(f"tracker {self.name}: takes no more lines; going on without it")
            self._is_full = True

    def close(self) -> None:
        self.pass_on(None)
        self._thread.join(SECONDS_TO_CLOSE)
        if self._thread.is_alive():
            logger.info(f"tracker {self.name}: does not finish; left behind")

    def _work(self, out_dir: Path, run: str) -> None:
        try:
            write, close = OPENERS[self.name](out_dir, run)
            while (line := self._lines.get()) is not None:
                write(line)
            close()
        except Exception as error:  # no network, no account: never a reason not to train
            logger.info(f"tracker {self.name}: failed ({error}); going on without it")


def _numbers(line: Line) -> dict[str, float]:
    return {k: v for k, v in line.items() if isinstance(v, int | float)}


def _tensorboard(out_dir: Path, run: str) -> Mirror:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out_dir / ".tensorboard"))

    def write(line: Line) -> None:
        for name, value in _numbers(line).items():
            writer.add_scalar(name, value, line["step"])

    return write, writer.close


def _wandb(out_dir: Path, run: str) -> Mirror:
    import wandb

    started = wandb.init(project="teenytinyllama", name=run, dir=str(out_dir), resume="allow")
    return (lambda line: started.log(_numbers(line), step=line["step"])), started.finish


def _trackio(out_dir: Path, run: str) -> Mirror:
    import trackio

    trackio.init(project="teenytinyllama", name=run)
    return (lambda line: trackio.log(_numbers(line))), trackio.finish


OPENERS: dict[str, Callable[[Path, str], Mirror]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
