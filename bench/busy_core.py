"""What one busy program beside a run costs: each stage's seconds, quiet and with a core taken.

    python bench/busy_core.py                       # the quick start, two turns of each
    python bench/busy_core.py --steps 200 --turns 4

On two cores (`taskset` where there are more). Turns alternate, in one run; each waits until nobody
else uses the cores, and says how much of a core others took meanwhile. The weights must be the
same in all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
STAGES = ("corpus", "tokenizer", "pack", "pretrain", "evaluate", "finetune", "align", "quantize")
CORES = sorted(os.sched_getaffinity(0))[:2]
FREE_SHARE = 0.1
PATIENCE_S = 600.0


def used_s() -> float:
    """Seconds of the two cores that all programs used since the machine's start."""
    total = 0.0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in {f"cpu{core}" for core in CORES}:
            user, nice, system, _, _, *interrupts = map(int, ticks[:8])
            total += (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return total


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_for_quiet() -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        before = used_s()
        time.sleep(2)
        if (used_s() - before) / 2 < FREE_SHARE:
            return


@contextmanager
def busy_program(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def turn(busy: bool, changes: list[str]) -> dict[str, object]:
    """One run from nothing: seconds a stage, what others used, a hash of the weights."""
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name) / "run"
        sets = [part for change in changes for part in ("--set", change)]
        command = [sys.executable, "-m", "teenytinyllama.cli", "run", str(RECIPE)]
        wait_for_quiet()
        used, children, started = used_s(), children_s(), time.perf_counter()
        with busy_program(busy):
            subprocess.run(
                [*command, "--run-dir", str(run_dir), *sets], check=True, stderr=subprocess.DEVNULL
            )
            seconds = time.perf_counter() - started
        others = (used_s() - used) - (children_s() - children)
        stages = {
            stage: json.loads((run_dir / stage / "manifest.json").read_text())["duration_s"]
            for stage in STAGES
        }
        weights = (run_dir / "pretrain" / "final" / "model.safetensors").read_bytes()
    return {
        "busy": busy,
        "all": round(seconds, 1),
        **stages,
        "others_share": round(others / seconds, 2),
        "sha256": hashlib.sha256(weights).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    os.sched_setaffinity(0, CORES)
    turns = []
    for _ in range(given.turns):
        for busy in (False, True):
            turns.append(turn(busy, [f"pretrain.num_steps={given.steps}"]))
            print(json.dumps(turns[-1]), flush=True)
    ratios = {}
    for stage in ("all", *STAGES):
        quiet, busy = (
            statistics.median(one[stage] for one in turns if one["busy"] is wanted)
            for wanted in (False, True)
        )
        ratios[stage] = round(busy / quiet, 2)
    print(json.dumps({"busy_over_quiet": ratios}))
    if len({one["sha256"] for one in turns}) > 1:
        raise SystemExit("the weights differ")


if __name__ == "__main__":
    main()
