"""What a run writes down as it trains.

    metrics.jsonl   one object per logged step
    samples.jsonl   continuations of fixed prompts
    skipped.jsonl   steps whose gradient was not finite, with the rows behind them

A resumed run cuts the first two back to what they held at its checkpoint, so that the log of a
killed run ends like one that was never stopped.

Trackers (TensorBoard, Weights & Biases, Trackio) mirror `metrics.jsonl`. Each has a thread and a
queue of its own: a tracker that fails is reported once and dropped, one that hangs is abandoned.
None can stop a run or slow it down.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import sync_folder
from teenytinyllama.errors import missing_extra
from teenytinyllama.training.task import TrainSettings

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"
SKIPPED_NAME = "skipped.jsonl"
MAX_WAITING_LINES = 10_000
SECONDS_TO_CLOSE = 10.0

Line = dict[str, Any]
Tracker = tuple[Callable[[Line], None], Callable[[], None]]
"""What writes a line, and what closes the tracker."""


class MetricsLogger:
    """The logs of one run. Only the main process writes; the others' calls do nothing."""

    def __init__(self, out_dir: Path, settings: TrainSettings, *, is_main: bool) -> None:
        self.out_dir, self.settings, self.is_main = out_dir, settings, is_main
        names = settings.trackers if is_main else ()
        for name in names:
            if find_spec(name) is None:
                raise missing_extra(name, "track")
        self._trackers = [_TrackerThread(name, out_dir, settings.run_name) for name in names]

    def log_metrics(self, line: Line) -> int:
        """Append a line to `metrics.jsonl` and its mirrors; returns the new length of the file."""
        if not self.is_main:
            return 0
        length = append_line(self.out_dir / METRICS_NAME, line)
        for tracker in self._trackers:
            tracker.put(line)
        return length

    def log_samples(self, rows: Sequence[Line]) -> int:
        """Append continuations; returns the new length of the file."""
        length = 0
        for row in rows if self.is_main else ():
            length = append_line(self.out_dir / SAMPLES_NAME, row)
        return length

    def log_skipped(self, record: Line) -> None:
        """Record a skipped step in `skipped.jsonl`, and report it."""
        if self.is_main:
            step = record["step"]
            logger.warning(
                f"step {step}: gradient not finite, update skipped ({SKIPPED_NAME} names its rows)"
            )
            append_line(self.out_dir / SKIPPED_NAME, record)

    def truncate(self, metrics_bytes: int, samples_bytes: int) -> None:
        """Cut the logs back to their lengths at a checkpoint."""
        if self.is_main:
            _truncate(self.out_dir / METRICS_NAME, metrics_bytes)
            _truncate(self.out_dir / SAMPLES_NAME, samples_bytes)

    def sync(self) -> None:
        """Flush the logs to disk: no checkpoint may count on lines that a power cut loses."""
        for name in (METRICS_NAME, SAMPLES_NAME) if self.is_main else ():
            sync_log(self.out_dir / name)

    def close(self) -> None:
        """Let every tracker finish, or abandon it after ten seconds."""
        for tracker in self._trackers:
            tracker.close()


def append_line(path: Path, value: Line) -> int:
    """Append one JSON line; returns the new length of the file."""
    with path.open("ab") as file:
        file.write((json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8"))
        return file.tell()


def sync_log(path: Path) -> None:
    """Flush a log and its folder entry to disk, where there is one."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)


def _truncate(path: Path, length: int) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size > length:
        os.truncate(path, length)
    elif size < length:
        logger.warning(
            f"{path} has {size:,} bytes, its checkpoint counts on {length:,}: lines are missing, "
            "and the curve will have a gap"
        )


class _TrackerThread:
    """Opens a tracker and feeds it on a thread that nothing waits for."""

    def __init__(self, name: str, out_dir: Path, run_name: str) -> None:
        self.name = name
        self._lines: queue.Queue[Line | None] = queue.Queue(MAX_WAITING_LINES)
        self._is_full = False
        self._thread = threading.Thread(
            target=self._work, args=(out_dir, run_name), name=f"tracker {name}", daemon=True
        )
        self._thread.start()

    def put(self, line: Line | None) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            if not self._is_full:
                logger.warning(f"tracker {self.name}: its queue is full, lines are dropped")
            self._is_full = True

    def close(self) -> None:
        self.put(None)
        self._thread.join(SECONDS_TO_CLOSE)
        if self._thread.is_alive():
            logger.warning(f"tracker {self.name}: does not finish, abandoned")

    def _work(self, out_dir: Path, run_name: str) -> None:
        try:
            write, close = OPENERS[self.name](out_dir, run_name)
            while (line := self._lines.get()) is not None:
                write(line)
            close()
        except Exception as error:  # no network, no account: never a reason not to train
            logger.warning(f"tracker {self.name} failed ({error}); continuing without it")


def _numbers(line: Line) -> dict[str, float]:
    return {k: v for k, v in line.items() if isinstance(v, int | float)}


def _tensorboard(out_dir: Path, run_name: str) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out_dir / ".tensorboard"))

    def write(line: Line) -> None:
        for name, value in _numbers(line).items():
            writer.add_scalar(name, value, line["step"])

    return write, writer.close


def _wandb(out_dir: Path, run_name: str) -> Tracker:
    import wandb

    run = wandb.init(project="teenytinyllama", name=run_name, dir=str(out_dir), resume="allow")
    return (lambda line: run.log(_numbers(line), step=line["step"])), run.finish


def _trackio(out_dir: Path, run_name: str) -> Tracker:
    import trackio

    trackio.init(project="teenytinyllama", name=run_name)
    return (lambda line: trackio.log(_numbers(line))), trackio.finish


OPENERS: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
