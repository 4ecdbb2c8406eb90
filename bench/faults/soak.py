"""F20: train for long with a kill every few minutes; memory, open files and disk must not grow.

    python bench/faults/soak.py                                # 30 minutes, a kill every 3
    python bench/faults/soak.py --minutes 4 --kill-every-s 40

Each process records its memory and its open files every hundred steps. The slope of memory is
fitted over the processes that lived long enough, without their first 500 steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import numpy as np
import torch
from support import tiny_training as tiny

from teenytinyllama.settings.training import CheckpointSettings
from teenytinyllama.training import checkpoints
from teenytinyllama.training.task import TrainTask

STEPS_BETWEEN_NOTES = 100
WARM_UP_STEPS = 500
NUM_STEPS = 10_000_000
MIN_KILLS = 2


def noting_task(notes: Path, life: int) -> TrainTask:
    """The tiny task; every hundred steps it records [life, step, memory in bytes, open files]."""
    task = tiny.TinyTask()
    plain = task.batches

    def batches(step: int, num_rows: int, num_processes: int = 1):
        if step % STEPS_BETWEEN_NOTES == 0:
            checkpoints.finish_removals()  # a removal in progress holds its folder open
            words = Path("/proc/self/status").read_text().split()
            memory = 1024 * int(words[words.index("VmRSS:") + 1])
            num_open = len(list(Path("/proc/self/fd").iterdir()))
            with notes.open("a") as file:
                file.write(json.dumps([life, step, memory, num_open]) + "\n")
        return plain(step, num_rows, num_processes)

    task.batches = batches
    return task


def train(folder: Path, notes: Path, life: int) -> None:
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    often = CheckpointSettings(every_minutes=1000, every_steps=50)
    tiny.train(
        folder,
        task=noting_task(notes, life),
        num_steps=NUM_STEPS,
        checkpoints=often,
        log_every_steps=20,
    )


def run(seconds: float, kill_every_s: float) -> tuple[list[list[int]], int, int, int]:
    """All records, and the numbers of kills, of folders at most, and of steps."""
    chance = random.Random(20)
    ends = time.monotonic() + seconds
    num_kills = most = 0
    with tempfile.TemporaryDirectory() as name:
        folder, notes = Path(name) / "run", Path(name) / "notes"
        while time.monotonic() < ends or num_kills < MIN_KILLS:
            process = multiprocessing.get_context("fork").Process(
                target=train, args=(folder, notes, num_kills)
            )
            process.start()
            dies_at = min(ends, time.monotonic() + kill_every_s * chance.uniform(0.8, 1.2))
            while time.monotonic() < dies_at or not is_running(folder, notes, num_kills):
                assert process.is_alive(), "the training ended by itself"
                time.sleep(0.05)
                most = max(most, num_folders(folder))
            process.kill()
            process.join()
            num_kills += 1
        rows = [json.loads(line) for line in notes.open()]
        newest = checkpoints.load_newest(folder)
        assert newest is not None
        assert not list(folder.glob("damaged-*"))
        return rows, num_kills, most, int(newest.state["progress"]["step"])


def is_running(folder: Path, notes: Path, life: int) -> bool:
    """Whether a process has recorded something and there is a checkpoint to resume from: on a
    loaded machine both take a while."""
    noted = notes.is_file() and f"[{life}, " in notes.read_text()
    return noted and bool(checkpoints.list_checkpoints(folder))


def num_folders(folder: Path) -> int:
    """Number of checkpoints, including those being written or removed."""
    return len(list(folder.glob("*step-*")))  # hidden ones too: pathlib's star means all


def slope(rows: list[list[int]]) -> float:
    """Bytes of memory per step, the mean over processes, weighted by their length."""
    total = weight = 0.0
    for life in {row[0] for row in rows}:
        mine = np.array([row[1:3] for row in rows if row[0] == life], float)
        mine = mine[mine[:, 0] >= mine[0, 0] + WARM_UP_STEPS]
        if len(mine) >= 5:
            total += float(np.polyfit(mine[:, 0], mine[:, 1], 1)[0]) * len(mine)
            weight += len(mine)
    return total / weight if weight else float("nan")


def figure(name: str, value: float, unit: str, goal: float, holds: bool, spread=None) -> None:
    line = {"figure": name, "value": value, "spread": spread, "unit": unit, "peer": ""}
    print(json.dumps({**line, "goal": goal, "holds": bool(holds)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kill-every-s", type=float, default=180)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, num_kills, most, last = run(60 * args.minutes, args.kill_every_s)
    told = {"kills": num_kills, "steps": last}
    grown = slope(rows) * 1000 / 1e6
    figure("F20 growth of memory in 1,000 steps", round(grown, 3), "MB", 1, grown <= 1, told)
    open_files = [row[3] for row in rows]
    most_open, least_open = max(open_files), min(open_files)
    same = most_open == least_open
    figure("F20 open files, most", most_open, "files", least_open, same, [least_open, most_open])
    # Two rolling ones, the one being written, and the one being removed.
    limit = checkpoints.NUM_ROLLING_KEPT + 2
    figure("F20 checkpoint folders, most", most, "folders", limit, most <= limit)


if __name__ == "__main__":
    main()
