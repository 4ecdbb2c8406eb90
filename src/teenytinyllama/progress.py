"""Progress of long work: a bar with rate and time left on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Self

from teenytinyllama.console import terminal, unheard

SECONDS_BETWEEN_LINES = 10.0
logger = logging.getLogger(__name__)


def format_duration(seconds: float) -> str:
    """A duration for people.

    >>> [format_duration(s) for s in (0.36, 4.24, 59.97, 75, 7300, 900_000)]
    ['0.4 s', '4.2 s', '1 min 00 s', '1 min 15 s', '2 h 01 min', '10 days 10 h']
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds + 0.05), 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    if hours < 100:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days:,} days {hours % 24} h"


def format_bytes(size: float) -> str:
    """A size for people.

    >>> [format_bytes(s) for s in (0, 812, 28_100, 999_990, 28_400_000, 7.15e9, 3e13)]
    ['0 bytes', '812 bytes', '28.1 kB', '1 MB', '28.4 MB', '7.15 GB', '30 TB']
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:,.3g} TB" if size < 999_500 else f"{size / 1000:,.0f} TB"


def format_money(usd: float) -> str:
    """An amount of US dollars for people.

    >>> [format_money(a) for a in (0, 0.0004, 0.22, 12.5, 12_345.6)]
    ['$0.00', 'less than $0.01', '$0.22', '$12.50', '$12,345.60']
    """
    return "less than $0.01" if 0 < usd < 0.005 else f"${usd:,.2f}"


def format_carbon(kg: float) -> str:
    """A mass of greenhouse gases for people.

    >>> [format_carbon(m) for m in (0, 1e-7, 0.0039, 5.67, 1234)]
    ['0 g CO2eq', 'less than 0.01 g CO2eq', '3.9 g CO2eq', '5.67 kg CO2eq', '1,234 kg CO2eq']
    """
    if 0 < kg < 1e-5:
        return "less than 0.01 g CO2eq"
    if kg < 0.9995:
        return f"{kg * 1000:.3g} g CO2eq"
    return f"{kg:.3g} kg CO2eq" if kg < 999.5 else f"{kg:,.0f} kg CO2eq"


def format_energy(kwh: float) -> str:
    """Energy for people.

    >>> [format_energy(e) for e in (0, 2e-7, 0.0004, 0.78, 36.4, 12_345)]
    ['0 Wh', 'less than 0.01 Wh', '0.4 Wh', '780 Wh', '36.4 kWh', '12.3 MWh']
    """
    if 0 < kwh < 1e-5:
        return "less than 0.01 Wh"
    if kwh < 0.9995:
        return f"{kwh * 1000:.3g} Wh"
    return f"{kwh:.3g} kWh" if kwh < 999.5 else f"{kwh / 1000:,.3g} MWh"


class Progress:
    """Counts work of one kind: `with Progress("corpus: read", total=166.0, unit="MB") as work`.

    `total` is None where it is not known; fewer than 10 MB are shown in kB. Off a terminal a line
    is logged at most every ten seconds, and one at the end.
    """

    def __init__(self, title: str, *, total: float | None = None, unit: str = "") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0.0
        self.note = ""
        self._bar: Any = None
        self._task: Any = None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
                console=terminal(),
            )
            with unheard():
                self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, status="")
        return self

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Add `amount` units of finished work; `note` replaces the words beside the count."""
        self.done += amount
        self.note = note or self.note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, status=self._status())
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info(f"{self.title}: {self._status()}{self._time_left()}")

    def _status(self) -> str:
        in_kb = self.unit == "MB" and max(self.done, self.total or 0) < 10
        scale, unit = (1000, "kB") if in_kb else (1, self.unit)
        rate = scale * self.done / max(time.monotonic() - self._started, 1e-9)
        of = "" if self.total is None else f"/{scale * self.total:,.0f}"
        words = f"{scale * self.done:,.0f}{of} {unit} ({rate:,.1f}/s)"
        return f"{words} {self.note}".rstrip()

    def _time_left(self) -> str:
        if not self.total or not self.done:
            return ""
        elapsed = time.monotonic() - self._started
        return f", {format_duration(elapsed * max(self.total - self.done, 0) / self.done)} left"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            with unheard():
                self._bar.stop()
        elif kind is None:
            took = format_duration(time.monotonic() - self._started)
            logger.info(f"{self.title}: {self._status()}, done in {took}")
