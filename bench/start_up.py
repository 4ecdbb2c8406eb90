"""How long until something happens: the first step of `ttl pretrain`, a finished run, `--help`.

    python bench/start_up.py
    python bench/start_up.py --rounds 3

From the start of the process to the first line of metrics.jsonl, the quick start's own model and
settings (`log_every_steps` 1), by the command line. Ours and plain imports take turns. Times depend
on what else the machine does; the processor's own seconds hardly do and are printed too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
PLAIN = (
    "import importlib; import teenytinyllama.pipeline.runner as runner;"
    "runner.load_stage = lambda name, loads_model: importlib.import_module(name);"
    "from teenytinyllama.cli.main import main; main()"
)
OURS = "from teenytinyllama.cli.main import main; main()"
ONE_STEP = ("pretrain.num_steps=1", "pretrain.sample_every_steps=0")


def command(code: str, run_dir: Path, *stages: str, changes: tuple[str, ...] = ()) -> list[str]:
    sets = [part for change in changes for part in ("--set", change)]
    return [sys.executable, "-c", code, *stages, str(RECIPE), "--run-dir", str(run_dir), *sets]


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def first_step(code: str, prepared: Path) -> tuple[float, float]:
    """Seconds by the clock and of the processor until the first step is in the log."""
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name) / "run"
        shutil.copytree(prepared, run_dir, symlinks=True)
        log = run_dir / "pretrain" / "metrics.jsonl"
        command_line = command(code, run_dir, "pretrain", changes=("pretrain.log_every_steps=1",))
        started = time.perf_counter()
        process = subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True)
        while not log.exists():
            if process.poll() is not None:
                raise SystemExit(process.communicate()[1])
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        processor = processor_seconds(process.pid)
        process.kill()
        process.communicate()
    return seconds, processor


def timed(arguments: list[str], expected: str) -> float:
    started = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    assert expected in done.stdout + done.stderr, done.stderr
    return seconds


def figure(
    name: str, values: list[float], unit: str, goal: float | None, peer: str = "", digits: int = 2
) -> None:
    median = statistics.median(values)
    line = {
        "figure": name,
        "value": round(median, digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
        "unit": unit,
        "peer": peer,
        "goal": goal,
        "holds": None if goal is None else bool(median <= goal),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    ours: list[tuple[float, float]] = []
    plain: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        prepared = Path(name) / "run"
        for stage in ("corpus", "tokenizer", "pack"):
            subprocess.run(command(OURS, prepared, stage), check=True, capture_output=True)
        first_step(OURS, prepared)  # so that every file has been read once
        for _ in range(rounds):
            ours.append(first_step(OURS, prepared))
            plain.append(first_step(PLAIN, prepared))
        finished = command(OURS, prepared, "pretrain", changes=ONE_STEP)
        subprocess.run(finished, check=True, capture_output=True)
        skips = [timed(finished, "pretrain: unchanged, skipped") for _ in range(rounds)]
    helps = [timed([sys.executable, "-c", OURS, "--help"], "pretrain") for _ in range(rounds)]
    figure("ttl pretrain: start to first step", [o[0] for o in ours], "s", 6)
    figure("the same, seconds of the processor", [o[1] for o in ours], "s", None)
    ratios = [o[1] / p[1] for o, p in zip(ours, plain, strict=True)]
    figure("the same, share of the processor's time", ratios, "ratio", 1, "plain imports")
    figure("ttl pretrain: a finished run is skipped", skips, "s", 1)
    figure("ttl --help", helps, "s", 0.5)


if __name__ == "__main__":
    main()
