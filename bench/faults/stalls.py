"""F21: a run whose disk hangs, whose tracker fails, or which is stopped and continued.

    python bench/faults/stalls.py            # three minutes: the limits are those of the product
    python bench/faults/stalls.py --limit-s 2

A read and a save that never return must be noticed within the limit (60 s) and a few seconds; the
run must show where it hangs, end with exit code 75, and resume to the same bytes. A tracker that
hangs or fails, and a SIGSTOP of some seconds during a save, must change nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
from support import tiny_training as tiny

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import Interrupted
from teenytinyllama.training import checkpoints, interruption, loop, metrics_logger
from teenytinyllama.training.task import TrainTask

NUM_STEPS = 20
# A save may take longer than the limit by its bytes: a tenth of a second for the tiny model.
SECONDS_OF_GRACE = 5.0


def hanging_read() -> TrainTask:
    """Reading the rows of step 12 never returns."""
    task = tiny.TinyTask()
    plain = task.batches

    def batches(step: int, num_rows: int, num_processes: int = 1):
        found = plain(step, num_rows, num_processes)
        return found if step != 12 else [replace(batch, load=dead_disk) for batch in found]

    task.batches = batches
    return task


def hanging_save() -> TrainTask:
    """The first save never returns."""
    task = tiny.TinyTask()
    task.write_model_files = dead_disk
    return task


def dead_disk(*_: object):
    while True:
        time.sleep(3600)


def start(folder: Path, limit_s: float, make_task: Callable = tiny.TinyTask, **changes):
    """Train in a fork that writes its standard error to `said` beside the folder."""

    def run() -> None:
        torch.set_num_threads(1)
        handle = os.open(folder.with_name("said"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 2)
        sys.stderr = sys.__stderr__ = os.fdopen(handle, "w")
        wait = min(1.0, limit_s / 10)
        loop.Watchdog = lambda: interruption.Watchdog(limit_s=limit_s, seconds_between_checks=wait)
        try:
            tiny.train(folder, task=make_task(), num_steps=NUM_STEPS, **changes)
        except Interrupted:
            os._exit(Interrupted.exit_code)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def fingerprint(folder: Path) -> tuple:
    last = folder / checkpoints.folder_name(NUM_STEPS) / "model.safetensors"
    return tiny.loss_log(folder), sha256_file(last)


def hang(make_task: Callable, limit_s: float, whole: tuple) -> tuple[bool, float]:
    """Whether a hang is reported, ends with code 75, and the run resumes; seconds until then."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        started = time.monotonic()
        process = start(folder, limit_s, make_task)
        process.join(10 * limit_s + 60)
        seconds = time.monotonic() - started
        if process.exitcode is None:
            process.kill()
            return False, seconds
        said = folder.with_name("said").read_text()
        start(folder, limit_s).join()
        noticed = process.exitcode == 75 and "in dead_disk" in said and "hangs" in said
        return noticed and fingerprint(folder) == whole, seconds


def stopped_in_a_save(limit_s: float, whole: tuple) -> bool:
    """Whether SIGSTOP during a save, for longer than the limit, and SIGCONT change nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        reached = Path(name) / "in-save"

        def slow_save() -> TrainTask:
            task = tiny.TinyTask()
            plain = task.write_model_files

            def write(path: Path) -> None:
                reached.write_text("")
                time.sleep(0.05)
                plain(path)

            task.write_model_files = write
            return task

        process = start(folder, limit_s, slow_save)
        while not reached.exists():
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(min(2 * limit_s, 70))
        os.kill(process.pid, signal.SIGCONT)
        process.join()
        return process.exitcode == 0 and fingerprint(folder) == whole


def with_tracker(write: Callable[[dict], None], limit_s: float, whole: tuple) -> bool:
    """Whether a run with such a tracker ends like one without."""
    metrics_logger.find_spec = lambda name: object()
    metrics_logger.OPENERS["wandb"] = lambda out_dir, run: (write, lambda: None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        process = start(folder, limit_s, trackers=("wandb",))
        process.join(120)
        return process.exitcode == 0 and fingerprint(folder) == whole


def fail(line: dict) -> None:
    raise ConnectionError("network is down")


def run(limit_s: float) -> dict[str, tuple[bool, float | None]]:
    """Every stall by name: whether it was handled, and the seconds until it was noticed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        start(folder, limit_s).join()
        whole = fingerprint(folder)
    return {
        "a read that hangs": hang(hanging_read, limit_s, whole),
        "a save that hangs": hang(hanging_save, limit_s, whole),
        "SIGSTOP in a save": (stopped_in_a_save(limit_s, whole), None),
        "a tracker that fails": (with_tracker(fail, limit_s, whole), None),
        "a tracker that hangs": (
            with_tracker(lambda line: threading.Event().wait(), limit_s, whole),
            None,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit-s", type=float, default=interruption.LIMIT_S)
    limit_s = parser.parse_args().limit_s
    torch.set_num_threads(1)
    results = run(limit_s)
    good = sum(ok for ok, _ in results.values())
    line = {
        "figure": "F21 stalls answered",
        "value": good,
        "spread": {k: v for k, v in results.items()},
    }
    line |= {"unit": "stalls", "peer": "", "goal": len(results), "holds": good == len(results)}
    print(json.dumps(line))
    slowest = max(seconds for _, seconds in results.values() if seconds is not None)
    line = {"figure": "F21 slowest to be noticed", "value": round(slowest, 1), "spread": None}
    goal = limit_s + SECONDS_OF_GRACE
    line |= {"unit": "s", "peer": "", "goal": goal, "holds": slowest <= goal}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
