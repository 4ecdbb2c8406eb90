"""Mirrors of `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio.

The local file comes first and is the truth. Each mirror has a thread of its own and a queue: one
that fails is named once and left out, one that hangs is left behind. None can stop a training or
hold it up.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from teenytinyllama.errors import missing_extra

logger = logging.getLogger(__name__)


Line = dict[str, Any]
Mirror = tuple[Callable[[Line], None], Callable[[], None]]
"""What writes a line, and what closes the mirror."""

MAX_WAITING_LINES = 10_000
SECONDS_TO_CLOSE = 10.0


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
