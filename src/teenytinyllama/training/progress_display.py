"""How a training is watched: one live view on a terminal, at most a line a minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teenytinyllama import hardware
from teenytinyllama.artifacts.json_lines import read_last_lines
from teenytinyllama.console import harmless, terminal, unheard
from teenytinyllama.progress import format_bytes, format_duration, format_energy, format_money
from teenytinyllama.redaction import redact
from teenytinyllama.training.metrics_logger import METRICS_NAME
from teenytinyllama.training.task import TrainSettings

if TYPE_CHECKING:
    import torch
    from rich.live import Live
    from rich.table import Table

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0
SECONDS_TO_FIRST_LINE = 10.0
BARS = "▁▂▃▄▅▆▇█"
LABEL_COLUMNS = len("  at the end")
CLIPPED_SHARE = 0.1
"""Of a curve's highest values: the first steps would flatten all that follows."""

Line = dict[str, Any]


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve as one character a bucket, each the mean of its values.

    >>> sparkline([8, 6, 4, 2], 4), sparkline([1, 1], 8), sparkline([], 8)
    ('██▅▁', '▁▁', '')
    """
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low = min(means)
    high = sorted(means)[int((1 - CLIPPED_SHARE) * (width - 1))]
    scale = (len(BARS) - 1) / (high - low or 1)
    return "".join(BARS[min(int((mean - low) * scale + 0.5), len(BARS) - 1)] for mean in means)


class ProgressDisplay:
    """Shows the lines of `metrics.jsonl` to people; the same calls on a terminal and elsewhere."""

    def __init__(
        self, out_dir: Path, settings: TrainSettings, device: torch.device, *, is_main: bool
    ) -> None:
        self._out_dir, self._settings, self._device = out_dir, settings, device
        self._is_main = is_main
        self._is_live = is_main and logger.isEnabledFor(logging.INFO) and _is_terminal()
        self._live: Live | None = None
        self._step, self._seconds, self._seconds_left = 0, 0.0, inf
        self._line: Line = {}
        self._losses: list[tuple[int, float]] = []
        self._heldout: list[tuple[int, float]] = []
        self._sample = ""
        self._said_at = time.monotonic() - SECONDS_BETWEEN_LINES + SECONDS_TO_FIRST_LINE

    def show_step(self, step: int, seconds: float, seconds_left: float, *, is_logged: bool) -> None:
        """Note a finished step; off a terminal, a short line after a minute without one.

        It has no loss: to show one, the host would have to wait for the device.
        """
        self._step, self._seconds, self._seconds_left = step, seconds, seconds_left
        if self._is_live and self._live is None:
            self._start()
        elif not is_logged and self._is_due():
            every = self._settings.log_every_steps
            self._say(
                f"  step {step}/{self._settings.num_steps}, {format_duration(seconds_left)} left "
                f"(loss and speed are shown every {every} steps)"
            )

    def show_line(self, line: Line, *, is_last: bool) -> None:
        """Note a line of the metrics; off a terminal, print it if none was for a minute."""
        self._line = line
        self._add(line)
        if not self._is_live and (is_last or self._is_due()):
            self._say(f"  step {line['step']}/{self._settings.num_steps}, " + ", ".join(
                filter(None, [self._loss(), self._score(), *self._speed(), self._left()])
            ))  # fmt: skip

    def _add(self, line: Line) -> None:
        """Make the curves longer by the line's loss and score."""
        for points, name in ((self._losses, "loss"), (self._heldout, "heldout_bpb")):
            while points and points[-1][0] >= line["step"]:  # the training was rolled back
                points.pop()
            if line.get(name) is not None:
                points.append((line["step"], line[name]))

    def show_sample(self, rows: Sequence[Line]) -> None:
        """Note the continuation of the first prompt."""
        for row in rows[:1]:
            self._sample = harmless(redact(" ".join(f"{row['prompt']}{row['text']}".split())))

    def close(self) -> None:
        """Leave the last view on the screen."""
        if self._live is not None:
            with unheard():
                self._live.stop()
            self._live = None

    # --- plain lines ---------------------------------------------------------------------------

    def _is_due(self) -> bool:
        return (
            self._is_main
            and not self._is_live
            and time.monotonic() - self._said_at >= SECONDS_BETWEEN_LINES
        )

    def _say(self, text: str) -> None:
        if self._is_main:
            self._said_at = time.monotonic()
            logger.info(text)

    def _loss(self) -> str:
        return f"loss {self._losses[-1][1]:.3f}" if self._losses else "loss -"

    def _score(self) -> str:
        return f"held-out {self._heldout[-1][1]:.4f} bits/byte" if self._heldout else ""

    def _speed(self) -> list[str]:
        """Tokens per second, their share of the device's peak, and what was spent so far."""
        line = self._line
        if line["mfu"] is None:  # of what a matrix product reaches here: no data sheet is known
            share = f"{line['share_of_measured_peak']:.0%} of the measured peak"
        else:
            share = f"MFU {100 * line['mfu']:.0f} %"
        return [f"{line['tokens_per_s']:,.0f} tokens/s", share, *self._spent(1.0)]

    def _spent(self, times: float) -> list[str]:
        """Energy and money of what the last line counts, times so much."""
        price = self._settings.usd_per_gpu_hour * self._seconds / 3600
        money = [format_money(price * times)] if price else []
        return [format_energy(self._line["energy_kwh"] * times), *money]

    def _left(self) -> str:
        return f"{format_duration(self._seconds_left)} left"

    # --- the live view -------------------------------------------------------------------------

    def _start(self) -> None:
        from rich.live import Live

        for line in read_last_lines(self._out_dir / METRICS_NAME):  # of the sessions before
            self._add(line)
        self._live = Live(
            console=terminal(), get_renderable=self._view, refresh_per_second=2, transient=False
        )
        with unheard():
            self._live.start()

    def _view(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        view = Table.grid(padding=(0, 2))
        view.add_column(style="dim", no_wrap=True, min_width=LABEL_COLUMNS)
        view.add_column(no_wrap=True, overflow="ellipsis")
        for name, text in self._rows(terminal().width - LABEL_COLUMNS - 2):
            view.add_row(f"  {name}", Text(text))
        return view

    def _rows(self, width: int) -> list[tuple[str, str]]:
        step, num_steps = self._step, self._settings.num_steps
        share = step / num_steps
        rows = [(self._out_dir.name, f"step {step:,}/{num_steps:,}, {share:.0%}, {self._left()}")]
        if self._line:
            rows += self._curve("loss", self._losses, "{:.3f}", width)
            rows += self._curve("held-out", self._heldout, "{:.4f} bits/byte", width)
            speed, of_peak, *spent = self._speed()
            whole = [*self._spent(1 / share), format_duration(self._seconds + self._seconds_left)]
            rows += [
                ("speed", f"{speed}, {of_peak}"),
                ("so far", ", ".join([*spent, format_duration(self._seconds)])),
                ("at the end", ", ".join(whole)),
                ("memory", f"{format_bytes(hardware.peak_memory_bytes(self._device))} at most"),
            ]
        rows += self._next_evaluation()
        return rows + ([("sample", self._sample)] if self._sample else [])

    @staticmethod
    def _curve(
        name: str, points: Sequence[tuple[int, float]], form: str, width: int
    ) -> list[tuple[str, str]]:
        if not points:
            return []
        last = form.format(points[-1][1])
        curve = sparkline([value for _, value in points], max(width - len(last) - 3, 1))
        return [(name, f"{last} {curve}")]

    def _next_evaluation(self) -> list[tuple[str, str]]:
        every, left = self._settings.evaluate_every_steps, self._settings.num_steps - self._step
        if not left:
            return []
        steps = min(every - self._step % every if every else left, left)
        wait = format_duration(self._seconds_left * steps / left)
        return [("evaluates", f"at step {self._step + steps:,}, in {wait}")]


def _is_terminal() -> bool:
    """Whether standard error is a terminal that can move its cursor and show the curves."""
    if not sys.stderr.isatty():
        return False
    console = terminal()
    return not console.is_dumb_terminal and not console.options.ascii_only
