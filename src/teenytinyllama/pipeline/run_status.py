"""`ttl status RUN`: what is done, what is running, what it has cost, how long it will take.

Everything is read from the run's folder, so any terminal and any machine that sees it can ask.
"""

from __future__ import annotations

import fcntl
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.json_lines import read_lines
from teenytinyllama.artifacts.manifest import read_manifest
from teenytinyllama.pipeline import spending
from teenytinyllama.pipeline.registry import STAGES
from teenytinyllama.progress import format_duration, format_energy, format_money
from teenytinyllama.stages.report.number_format import is_number
from teenytinyllama.stages.report.run_record import RunRecord, dig, read_run

METRICS_NAME = "metrics.jsonl"
SHOWN = ("step", "tokens", "loss", "heldout_bpb", "tokens_per_s")  # as numbers; others are left out


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run: `done`, `running`, `stopped` (the same command resumes it), `waiting`."""

    name: str
    state: str
    seconds: float = 0.0
    energy_kwh: float = 0.0
    usd: float = 0.0
    last_metrics: dict[str, Any] | None = None
    """The newest line of the log of a training that is not done."""
    num_steps: int | None = None
    seconds_left: float | None = None

    def line(self) -> str:
        """The stage as a line for people."""
        words = [self.state]
        if self.state != "waiting":
            words += [format_duration(self.seconds), format_energy(self.energy_kwh)]
        if self.usd:
            words.append(format_money(self.usd))
        metrics = self.last_metrics or {}
        if "step" in metrics:
            of = f"/{self.num_steps:,}" if self.num_steps else ""
            words.append(f"step {metrics['step']:,}{of}")
        if metrics.get("loss") is not None:
            words.append(f"loss {metrics['loss']:.3f}")
        if metrics.get("heldout_bpb") is not None:
            words.append(f"held-out {metrics['heldout_bpb']:.4f} bits/byte")
        if metrics.get("tokens_per_s"):
            words.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
        if self.state == "running" and self.seconds_left is not None:
            words.append(f"{format_duration(self.seconds_left)} left")
        return f"{self.name:<10} {', '.join(words)}"


@dataclass(frozen=True)
class RunStatus:
    """A run as a whole; `process` is what works in its folder now, empty for none."""

    name: str
    process: str
    stages: tuple[StageStatus, ...]

    def text(self) -> str:
        """The run for people: a line a stage, and the sum."""
        usd = sum(stage.usd for stage in self.stages)
        total = [
            format_duration(sum(stage.seconds for stage in self.stages)),
            format_energy(sum(stage.energy_kwh for stage in self.stages)),
            *([format_money(usd)] if usd else []),
        ]
        lines = [stage.line() for stage in self.stages]
        who = self.process or "nothing is running"
        return "\n".join([f"{self.name}: {who}", *lines, f"{'so far':<10} {', '.join(total)}"])


def read_status(run_dir: Path) -> RunStatus:
    """The state of a run. Raises UserError where `run_dir` is no run folder."""
    run = read_run(run_dir)
    process = _process_in(run_dir)
    return RunStatus(run.name, process, tuple(_stages(run, run_dir, is_running=bool(process))))


def _process_in(run_dir: Path) -> str:
    """What holds the lock of the folder, as it wrote itself down; empty where nothing does."""
    try:
        with (run_dir / ".lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "a process"
    except OSError:  # no lock, or a folder that is only read here
        pass
    return ""


def _stages(run: RunRecord, run_dir: Path, *, is_running: bool) -> Iterator[StageStatus]:
    wanted = [stage.name for stage in STAGES if run.recipe.get(stage.name) is not None]
    done = {name: read_manifest(run_dir / name) for name in wanted}
    # The log of what a stage costs is written every half second while it runs.
    started = {
        name: (run_dir / name / spending.FILE_NAME).stat().st_mtime
        for name in wanted
        if done[name] is None and (run_dir / name / spending.FILE_NAME).is_file()
    }
    current = max(started, key=started.__getitem__, default="") if is_running else ""
    for name in wanted:
        manifest = done[name]
        if manifest is not None:
            seconds, kwh = manifest.duration_s, sum(manifest.energy_kwh.values())
            yield StageStatus(name, "done", seconds, kwh, run.energy.cost_usd(seconds, kwh))
        elif name in started:
            yield _unfinished(run, run_dir / name, "running" if name == current else "stopped")
        else:
            yield StageStatus(name, "waiting")


def _unfinished(run: RunRecord, folder: Path, state: str) -> StageStatus:
    rows = spending.read_all(folder)
    spent = spending.total(folder, rows[-1].fingerprint if rows else "")
    seconds, kwh = spent.seconds, spent.energy.total_kwh
    newest = deque(read_lines(folder / METRICS_NAME), maxlen=1)
    metrics = (
        {k: v for k, v in newest[0].items() if k not in SHOWN or is_number(v)} if newest else None
    )
    num_steps, left = dig(run.recipe, folder.name, "num_steps"), None
    num_steps = num_steps if is_number(num_steps) else None
    tokens, step, rate = ((metrics or {}).get(key) for key in ("tokens", "step", "tokens_per_s"))
    if num_steps and tokens and step and rate:
        left = tokens * (num_steps / step - 1) / rate
    usd = run.energy.cost_usd(seconds, kwh)
    return StageStatus(folder.name, state, seconds, kwh, usd, metrics, num_steps, left)
