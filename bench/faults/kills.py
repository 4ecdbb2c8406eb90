"""F1, F8, F9: kill, stop and poison one training many times; it must end in the same bytes.

    python bench/faults/kills.py            # 200 kills, 100 stop signals, 50 poisons
    python bench/faults/kills.py --kills 20 --stops 10 --poisons 10

A 2-layer Llama, three epochs and more. torch is imported once and every trial is a fork.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "training"))

import tiny
import torch

from teenytinyllama.errors import Interrupted
from teenytinyllama.formats.manifest import sha256_file
from teenytinyllama.recipe import CheckpointSettings
from teenytinyllama.training import checkpoints

NUM_STEPS = 1200
PLAN = {
    "num_steps": NUM_STEPS,
    "log_every_steps": 7,
    "checkpoints": CheckpointSettings(every_minutes=1000, every_steps=8),
}


def child(folder: Path, plan: dict, poison: dict | None) -> None:
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    code = 0
    try:
        tiny.train(folder, the_job=tiny.job(poison=poison), **plan)
    except Interrupted:
        code = 75
    os._exit(code)


def start(folder: Path, plan: dict | None = None, poison: dict | None = None):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=child, args=(folder, plan or PLAN, poison))
    process.start()
    return process


def fingerprint(folder: Path) -> tuple:
    last = folder / checkpoints.folder_name(NUM_STEPS) / "model.safetensors"
    return tiny.loss_log(folder), sha256_file(last)


def kills(count: int, number: int, whole: tuple, longest: float) -> tuple[int, int, int]:
    """Signals sent, runs that ended as the undisturbed one, checkpoints found damaged."""
    chance = random.Random(number)
    sent = equal = runs = damaged = 0
    while sent < count:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            process = start(folder)
            while process.exitcode is None:
                process.join(chance.uniform(0.0, longest) if sent < count else None)
                if process.exitcode is not None:
                    break
                os.kill(process.pid, number)
                sent += 1
                process.join()
                process = start(folder)
            runs += 1
            equal += fingerprint(folder) == whole
            damaged += len(list(folder.glob("damaged-*")))
    return runs, equal, damaged


def stops(count: int) -> tuple[int, int, float]:
    """SIGTERM at random moments: exits with 75, a checkpoint of the step it stopped at, seconds."""
    chance = random.Random(8)
    good = late = 0
    slowest = 0.0
    for _ in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            seldom = CheckpointSettings(every_minutes=1000)
            process = start(folder, {**PLAN, "checkpoints": seldom, "num_steps": 100_000})
            deadline = time.monotonic() + 60
            while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            started = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            process.join(20)
            seconds = time.monotonic() - started
            slowest = max(slowest, seconds)
            found = checkpoints.load_newest(folder)
            log = tiny.loss_log(folder)
            whole = found is not None and found.state["progress"]["step"] >= log[-1][0]
            good += process.exitcode == 75 and whole
            late += seconds > 5
    return good, late, slowest


def poisons(count: int) -> tuple[int, int]:
    """Steps that were skipped and named, and checkpoints that hold a number that is not finite."""
    chance = random.Random(9)
    caught = bad = 0
    for trial in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            step = chance.randrange(2, 38)
            value = (float("nan"), float("inf"), -float("inf"), 1e38, 1e30)[trial % 5]
            process = start(folder, {**PLAN, "num_steps": 40}, {step: value})
            process.join()
            lines = [json.loads(line) for line in (folder / "skipped.jsonl").open()]
            caught += [line["step"] for line in lines] == [step]
            for _, path in checkpoints.list_checkpoints(folder):
                found = checkpoints.load_file(path / "model.safetensors")
                bad += not all(bool(t.isfinite().all()) for t in found.values())
    return caught, bad


def figure(name: str, value: float, unit: str, goal: float, holds: bool, spread=None) -> None:
    line = {"figure": name, "value": value, "spread": spread, "unit": unit, "peer": ""}
    print(json.dumps({**line, "goal": goal, "holds": bool(holds)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=100)
    parser.add_argument("--poisons", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        start(Path(name)).join()
        undisturbed_s = time.monotonic() - started
        whole = fingerprint(Path(name))
    runs, equal, damaged = kills(args.kills, signal.SIGKILL, whole, undisturbed_s / 6)
    figure("F1 kills survived", args.kills, "kills", 200, equal == runs)
    figure("F1 runs that end in the same bytes", equal / runs, "share", 1, equal == runs)
    figure("F1 checkpoints found damaged", damaged, "checkpoints", 0, damaged == 0)
    good, late, slowest = stops(args.stops)
    figure(
        "F8 stop signals with a checkpoint of their step",
        good,
        "signals",
        args.stops,
        good == args.stops,
    )
    figure("F8 slowest stop", round(slowest, 2), "s", 5, late == 0)
    caught, bad = poisons(args.poisons)
    figure("F9 poisons skipped and named", caught, "poisons", args.poisons, caught == args.poisons)
    figure("F9 checkpoints that are not finite", bad, "checkpoints", 0, bad == 0)


if __name__ == "__main__":
    main()
