"""Mirrors of `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio.

The local file comes first and is the truth. A mirror that fails is named once and left out from
then on: it can neither stop nor hold up a training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from teenytinyllama.context import RoomContext
from teenytinyllama.errors import missing_extra
from teenytinyllama.progress import say

Line = dict[str, Any]


class Trackers:
    """The mirrors of one training."""

    def __init__(self, names: Sequence[str], out_dir: Path, context: RoomContext) -> None:
        openers = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
        self._open: dict[str, tuple[Callable[[Line], None], Callable[[], None]]] = {}
        for name in names:
            try:
                self._open[name] = openers[name](out_dir, context.run_name)
            except ImportError as error:
                raise missing_extra(name, "track") from error
            except Exception as error:  # no network, no account: never a reason not to train
                say(f"tracker {name}: cannot start ({error}); training without it")

    def log(self, line: Line) -> None:
        """Pass one logged line on."""
        for name, (write, _) in list(self._open.items()):
            try:
                write(line)
            except Exception as error:
                say(f"tracker {name}: failed ({error}); going on without it")
                del self._open[name]

    def close(self) -> None:
        """Let every mirror finish."""
        for name, (_, close) in self._open.items():
            try:
                close()
            except Exception as error:
                say(f"tracker {name}: could not be closed ({error})")


def _numbers(line: Line) -> dict[str, float]:
    return {k: v for k, v in line.items() if isinstance(v, int | float)}


def _tensorboard(out_dir: Path, run: str) -> tuple[Callable[[Line], None], Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out_dir / ".tensorboard"))

    def write(line: Line) -> None:
        for name, value in _numbers(line).items():
            writer.add_scalar(name, value, line["step"])

    return write, writer.close


def _wandb(out_dir: Path, run: str) -> tuple[Callable[[Line], None], Callable[[], None]]:
    import wandb

    started = wandb.init(project="teenytinyllama", name=run, dir=str(out_dir), resume="allow")
    return (lambda line: started.log(_numbers(line), step=line["step"])), started.finish


def _trackio(out_dir: Path, run: str) -> tuple[Callable[[Line], None], Callable[[], None]]:
    import trackio

    trackio.init(project="teenytinyllama", name=run)
    return (lambda line: trackio.log(_numbers(line))), trackio.finish
