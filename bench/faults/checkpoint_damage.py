"""F2, F3, F4: crash, fill the disk and flip bits in a save; no bad checkpoint may be loaded.

    python bench/faults/checkpoint_damage.py

F2 ends the process before, in the middle of and after every file operation of a save, a prune and
a log line. F3 makes every write fail with a full disk. F4 cuts, empties, deletes, flips and zeroes
files of the newest checkpoint.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch

from teenytinyllama.errors import Interrupted
from teenytinyllama.training import checkpoints
from teenytinyllama.training.metrics_logger import append_line

SHAPE = (64, 64)


def save(folder: Path, step: int) -> None:
    checkpoints.save_checkpoint(
        folder,
        step,
        model={"w": torch.full(SHAPE, float(step))},
        optimizer={"m/w": torch.full(SHAPE, -float(step))},
        state={"progress": {"step": step}},
        write_model_files=lambda path: (path / "config.json").write_text("{}"),
        keep=lambda step: False,
    )
    checkpoints.finish_removals()
    append_line(folder / "metrics.jsonl", {"step": step})


def newest_step(folder: Path) -> int | None:
    """Step of the checkpoint from which a new start, after its clean-up, would resume."""
    checkpoints.clean_up(folder)
    found = checkpoints.load_newest(folder)
    if found is None:
        return None
    step = int(found.state["progress"]["step"])
    assert bool((found.model["w"] == step).all())
    assert bool((found.optimizer["m/w"] == -step).all())
    return step


OPERATIONS = ("open", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "truncate")


def instrument(at: int, act: Callable[[int, str, Callable, tuple, dict], object]) -> list[int]:
    """From now on, let `act` do file operation number `at`; the list returned counts them."""
    counter = [0]

    def wrap(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            counter[0] += 1
            if counter[0] == at:
                return act(at, name, original, args, kwargs)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    for name in OPERATIONS:
        wrap(os, name)
    wrap(io, "open")  # what pathlib opens files with
    wrap(checkpoints, "write_tensors")
    return counter


def in_child(work: Callable[[], None]) -> int:
    def run() -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        work()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode or 0


def crash(when: str) -> Callable:
    def act(number, name, original, args, kwargs):
        if when == "after":
            original(*args, **kwargs)
        elif when == "torn" and name == "write_tensors":
            original(*args, **kwargs)
            path = Path(args[0])
            os.truncate(path, path.stat().st_size // 2)
        os._exit(137)

    return act


def count_operations() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in (1, 2, 3):
            save(folder, step)
        counter = instrument(0, crash("before"))
        save(folder, 4)
        return counter[0]


def crashes(numbers: Iterable[int]) -> tuple[int, int]:
    """F2: trials, and those after which the newest complete checkpoint (3 or 4) is loaded."""
    good = trials = 0
    for number in numbers:
        for when in ("before", "torn", "after"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                for step in (1, 2, 3):
                    save(folder, step)

                def work(number=number, when=when, folder=folder) -> None:
                    instrument(number, crash(when))
                    save(folder, 4)

                in_child(work)
                trials += 1
                good += newest_step(folder) in (3, 4) and not list(folder.glob("damaged-*"))
    return trials, good


def full_disks(numbers: Iterable[int]) -> tuple[int, int]:
    """F3: trials, and those that end with a clear message and the older checkpoint intact."""
    good = trials = 0
    for number in numbers:
        for code in (errno.ENOSPC, errno.EIO):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                for step in (1, 2, 3):
                    save(folder, step)

                def act(_, name, original, args, kwargs, code=code):
                    raise OSError(code, os.strerror(code))

                def work(number=number, act=act, folder=folder) -> None:
                    instrument(number, act)
                    try:
                        save(folder, 4)
                    except Interrupted as error:
                        os._exit(75 if "free" in str(error) else 1)
                    except OSError:
                        os._exit(76)  # outside the save itself: the command line reports it

                exit_code = in_child(work)
                trials += 1
                good += exit_code in (0, 75, 76) and newest_step(folder) in (3, 4)
    return trials, good


def damages(count: int) -> tuple[int, int]:
    """F4: trials, and those in which the damage is found and the previous checkpoint loaded."""
    chance = random.Random(4)
    good = trials = 0
    with tempfile.TemporaryDirectory() as name:
        pristine = Path(name) / "pristine"
        for step in (1, 2):
            save(pristine, step)
        files = sorted(p.name for p in (pristine / checkpoints.folder_name(2)).iterdir())
        while trials < count:
            folder = Path(name) / "trial"
            shutil.copytree(pristine, folder)
            path = folder / checkpoints.folder_name(2) / chance.choice(files)
            data = bytearray(path.read_bytes())
            how = chance.choice(["cut", "empty", "delete", "flip", "zero"])
            place = chance.randrange(len(data))
            if how == "delete":
                path.unlink()
            elif how == "empty":
                path.write_bytes(b"")
            elif how == "cut":
                path.write_bytes(data[:place])
            elif how == "flip":
                data[place] ^= 1 << chance.randrange(8)
                path.write_bytes(data)
            else:
                end = min(place + 4096, len(data))
                if not any(data[place:end]):
                    shutil.rmtree(folder)
                    continue  # the page held zeros already: nothing is damaged
                data[place:end] = bytes(end - place)
                path.write_bytes(data)
            harmless = (
                path.name == "manifest.json" and how == "flip" and same_manifest(path, pristine)
            )
            trials += 1
            good += harmless or newest_step(folder) == 1
            shutil.rmtree(folder)
    return trials, good


def same_manifest(path: Path, pristine: Path) -> bool:
    """Whether the damage, such as a flipped bit in white space, leaves the content equal."""
    original = pristine / checkpoints.folder_name(2) / "manifest.json"
    try:
        return json.loads(path.read_bytes()) == json.loads(original.read_bytes())
    except ValueError:
        return False


def figure(name: str, value: float, unit: str, peer: str, goal: float, holds: bool, spread) -> None:
    line = {"figure": name, "value": value, "spread": spread, "unit": unit, "peer": peer}
    print(json.dumps({**line, "goal": goal, "holds": bool(holds)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 (each damage is reported)
    trials, good = damages(args.damages)
    figure(
        "F4 damages found and answered",
        good / trials,
        "share",
        "",
        1,
        good == trials,
        trials,
    )
    queue = multiprocessing.get_context("fork").SimpleQueue()
    in_child(lambda: queue.put(count_operations()))
    every = range(1, queue.get() + 1)
    trials, good = crashes(every)
    figure("F2 crashes in a save survived", good / trials, "share", "", 1, good == trials, trials)
    trials, good = full_disks(every)
    figure("F3 full disks survived", good / trials, "share", "", 1, good == trials, trials)


if __name__ == "__main__":
    main()
