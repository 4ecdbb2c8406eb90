"""What a stage has cost over all its processes: seconds, energy, emissions.

`<stage>/.spending.jsonl` has one line a process, which it overwrites in place as it goes: at
every reading of the meter (so before every checkpoint) and every half second. A process that is
killed loses less than a second, two or three where ten others want its core; a damaged line costs
that process's share, and is reported.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from teenytinyllama.artifacts.manifest import sync_folder
from teenytinyllama.energy import Energy, EnergyMeter, total_energy
from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)

FILE_NAME = ".spending.jsonl"
LINE_BYTES = 320
SECONDS_BETWEEN_NOTES = 0.5


class Spending(NamedTuple):
    """What one process, or all of them, have used."""

    seconds: float
    energy: Energy
    started_at: str
    fingerprint: str = ""


class SpendingLog:
    """The line of this process in the file of its stage."""

    def __init__(self, stage_dir: Path, fingerprint: str, meter: EnergyMeter) -> None:
        self.path, self.fingerprint, self._meter = stage_dir / FILE_NAME, fingerprint, meter
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._started = time.monotonic()
        meter.refresh()
        self._zero = meter.latest
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise UserError(
                "run-link", str(self.path), "is no file of this run", f"rm -r {self.path}"
            )
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        size = os.fstat(self._file).st_size
        # After a line that was cut short.
        self._place = size + 1 if size and os.pread(self._file, 1, size - 1) != b"\n" else size
        if self._place > size:
            os.pwrite(self._file, b"\n", size)
        self.note()
        sync_folder(stage_dir)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, what this process uses is written down."""
        thread = threading.Thread(target=self._run, name="spending", daemon=True)
        thread.start()
        self._meter.on_reading = self.note
        try:
            yield
        finally:
            self._meter.on_reading = None
            self._stopped.set()
            thread.join()
            self.note()
            os.close(self._file)

    def _run(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_NOTES):
            self.note(sync=False)  # reading the meter takes a while on a busy machine
            self._meter.refresh()
            self.note(sync=False)

    def note(self, *, sync: bool = True) -> None:
        """Write down what was used until now."""
        used = self._meter.latest.since(self._zero)
        value = {
            "seconds": round(time.monotonic() - self._started, 3),
            **used._asdict(),
            "started_at": self.started_at,
            "fingerprint": self.fingerprint,
        }
        line = json.dumps(value).encode("ascii").ljust(LINE_BYTES - 1) + b"\n"
        with self._lock, suppress(OSError):  # a full disk: the work itself reports it
            os.pwrite(self._file, line, self._place)
            if sync:
                os.fsync(self._file)


def read_all(stage_dir: Path) -> list[Spending]:
    """What each process has used, oldest first; a warning for lines that cannot be read."""
    path = stage_dir / FILE_NAME
    if not path.is_file():
        return []
    found, num_damaged = [], 0
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
            energy = Energy(*(float(line[name]) for name in Energy._fields))
            seconds = float(line["seconds"])
            if not all(0 <= value < math.inf for value in (seconds, *energy)):
                raise ValueError("a cost is negative or without end")
            found.append(
                Spending(seconds, energy, str(line["started_at"]), str(line["fingerprint"]))
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            num_damaged += bool(text.strip(b"\0 "))
    if num_damaged:
        logger.warning(
            f"{path}: {num_damaged} lines cannot be read: time and energy of as many processes "
            "are missing from the total"
        )
    return found


def total(stage_dir: Path, fingerprint: str) -> Spending:
    """The sum over all processes that worked on this fingerprint, from the first one's start."""
    rows = [row for row in read_all(stage_dir) if row.fingerprint == fingerprint]
    energy = total_energy([row.energy for row in rows])
    return Spending(
        sum(row.seconds for row in rows), energy, rows[0].started_at if rows else "", fingerprint
    )
