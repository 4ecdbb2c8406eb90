"""F1, F8, F9: kill, stop and poison a training run many times; it must end in the same bytes.

    python bench/faults/kills.py            # 300 kills, 100 stop signals, 50 poisons
    python bench/faults/kills.py --kills 20 --stops 10 --poisons 10

A 2-layer Llama, more than three epochs. torch and the model's class are imported once and every
trial is a fork, which takes half a second; one that imports them itself takes five.
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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
from safetensors.torch import load_file
from support import tiny_training as tiny

from teenytinyllama import signals
from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import Interrupted
from teenytinyllama.settings.pretraining import DropoutSettings
from teenytinyllama.settings.training import CheckpointSettings
from teenytinyllama.training import checkpoints
from teenytinyllama.training.losses import NextTokenLoss
from teenytinyllama.training.regularization import add_dropout
from teenytinyllama.training.task import TrainTask

NUM_STEPS = 1200
PLAN = {
    "num_steps": NUM_STEPS,
    "log_every_steps": 7,
    "checkpoints": CheckpointSettings(every_minutes=1000, every_steps=8),
}
# What docs/little-text.md adds to a training; kill_stages.py kills it with the stage around it.
LEVERS_PLAN = {
    **PLAN,
    "num_steps": 300,
    "rows_per_epoch": 250,
    "evaluate_every_steps": 40,
    "keep_best": True,
    "ema_decay": 0.98,
    "average_epochs": 3,
}
DROPOUT = DropoutSettings(residual=0.1, mlp=0.1, embedding=0.1, attention=0.1, layers=0.1)
# Where a run is when a stop signal arrives; NOT_YET is before the command line's handlers.
NOT_YET, START_UP, ROWS, EVALUATE, SAMPLE, SAVE = range(6)
PLACES = {
    START_UP: "start-up",
    ROWS: "reading rows",
    EVALUATE: "evaluation",
    SAMPLE: "samples",
    SAVE: "save",
}
# How long a run waits for its signal in the place where it is due.
PATIENCE_S = 30.0


class Child(NamedTuple):
    """A run in a process of its own, and what it reports."""

    process: multiprocessing.Process
    place: object
    hit: object
    """1 once its signal has been sent."""
    reports: object


def train(folder: Path, plan: dict, task: TrainTask | None, place, report) -> None:
    """Train as the command line does: an exit code, and a report of the reason for a stop."""
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signals.install([])
    code = 0
    try:
        place.value = START_UP
        tiny.train(folder, task=task, **plan)
    except (Interrupted, KeyboardInterrupt) as stop:
        report.send(str(stop))
        code = Interrupted.exit_code
    os._exit(code)


def start(
    folder: Path,
    plan: dict | None = None,
    make_task: Callable = tiny.TinyTask,
    aim: int | None = None,
) -> Child:
    context = multiprocessing.get_context("fork")
    place, hit = context.RawValue("i", NOT_YET), context.RawValue("i", 0)
    reports, report = context.Pipe(duplex=False)

    def run() -> None:
        task = make_task() if make_task is not staged_task else staged_task(place, hit, aim)
        train(folder, plan or PLAN, task, place, report)

    process = context.Process(target=run)
    process.start()
    report.close()
    return Child(process, place, hit, reports)


def staged_task(place, hit, aim: int | None) -> TrainTask:
    """The tiny task with an evaluation and samples; it reports where it is, and in the place that
    its signal is aimed at it waits for it."""
    task = tiny.TinyTask()

    def staged(number: int, work: Callable) -> Callable:
        def run(*args):
            place.value = number
            ends = time.monotonic() + PATIENCE_S
            while number == aim and not hit.value and time.monotonic() < ends:
                time.sleep(0.001)
            return work(*args)

        return run

    def evaluate(model) -> dict[str, float]:
        return {"heldout_bpb": float(model.lm_head.weight.detach().double().sum())}

    task.batches = staged(ROWS, task.batches)
    task.evaluate = staged(EVALUATE, evaluate)
    task.sample = staged(SAMPLE, lambda model: [{"prompt": "1", "text": "2"}])
    task.write_model_files = staged(SAVE, task.write_model_files)
    return task


def levers_task() -> TrainTask:
    """The tiny task with dropout, a loss on the token after next, and a held-out score."""
    task = tiny.TinyTask()
    add_dropout(task.model, DROPOUT)
    task.loss = NextTokenLoss(task.model, second_token_weight=0.2)

    def score(model) -> float:
        ids, labels = (torch.from_numpy(a) for a in task.batches(0, 4)[0].load().values())
        return float(NextTokenLoss(model)(ids, labels))

    task.score_heldout = score
    return task


def fingerprint(folder: Path, num_steps: int) -> tuple:
    last = folder / checkpoints.folder_name(num_steps)
    files = (last / "model.safetensors", last / "optimizer.safetensors")
    return tiny.loss_log(folder), *map(sha256_file, files)


def undisturbed(plan: dict, make_task: Callable = tiny.TinyTask) -> tuple[tuple, float]:
    """The result of a run that is not interrupted, and its seconds."""
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        start(Path(name), plan, make_task).process.join()
        return fingerprint(Path(name), plan["num_steps"]), time.monotonic() - started


def kills(count: int, plan: dict = PLAN, make_task: Callable = tiny.TinyTask) -> tuple:
    """Number of runs for `count` SIGKILLs, of those with equal results, of damaged checkpoints."""
    whole, seconds = undisturbed(plan, make_task)
    chance = random.Random(count)
    sent = equal = runs = damaged = 0
    while sent < count:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            process = start(folder, plan, make_task).process
            while process.exitcode is None:
                process.join(chance.uniform(0.0, seconds / 6) if sent < count else None)
                if process.exitcode is not None:
                    break
                process.kill()
                sent += 1
                process.join()
                process = start(folder, plan, make_task).process
            runs += 1
            equal += fingerprint(folder, plan["num_steps"]) == whole
            damaged += len(list(folder.glob("damaged-*")))
    return runs, equal, damaged


class Stops(NamedTuple):
    """The outcome of many stop signals."""

    sent: int
    failures: list[str]
    """Signals not answered by exit code 75 and a checkpoint of the step in which they arrived."""
    places: dict[str, int]
    seconds: list[float]
    runs: int
    equal: int
    """Runs that, resumed after every signal, ended like the undisturbed one."""


def stops(count: int, num_steps: int = 400) -> Stops:
    """Send SIGTERM, SIGINT and SIGHUP, one in every place in turn and one at a random moment.

    In a save every second signal is followed by another one.
    """
    seldom = CheckpointSettings(every_minutes=1000, every_steps=30)
    plan = {
        "num_steps": num_steps,
        "log_every_steps": 7,
        "evaluate_every_steps": 20,
        "sample_every_steps": 25,
        "checkpoints": seldom,
    }
    whole, seconds = undisturbed(plan, staged_task)
    chance = random.Random(8)
    sent = runs = equal = 0
    failures, places, took = [], Counter(), []
    while sent < count:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            while True:
                aim = (None, *PLACES)[sent % 6] if sent < count else NOT_YET
                child = start(folder, plan, staged_task, aim)
                place = _wait_for(child, aim, chance.uniform(0, seconds / 6))
                if place is None:
                    break
                number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[sent % 3]
                twice = place == SAVE and sent % 12 >= 6
                failure, waited = _stop(child, folder, number, twice=twice)
                if failure is None and child.process.exitcode == 0:
                    break  # it had just ended
                sent += 1
                if failure:
                    failures.append(f"{number.name} in {PLACES[place]}: {failure}")
                places[PLACES[place]] += 1
                took.append(waited)
            runs += 1
            equal += fingerprint(folder, num_steps) == whole
    return Stops(sent, failures, places, took, runs, equal)


def _wait_for(child: Child, aim: int | None, seconds: float) -> int | None:
    """The place where the child is when its signal is due; None where it has ended before."""
    ends = time.monotonic() + seconds
    while child.process.is_alive():
        place = child.place.value
        due = time.monotonic() > ends if aim is None else place == aim
        if due and place != NOT_YET:
            return place
        time.sleep(0.0005)
    return None


def _stop(
    child: Child, folder: Path, number: signal.Signals, *, twice: bool
) -> tuple[str | None, float]:
    """Send one signal, or two; return what went wrong, if anything, and the seconds it took."""
    before = checkpoints.list_checkpoints(folder)
    started = time.monotonic()
    os.kill(child.process.pid, number)
    if twice:
        time.sleep(0.002)
        os.kill(child.process.pid, number)
    child.hit.value = 1
    child.process.join(60)
    seconds = time.monotonic() - started
    code = child.process.exitcode
    found = checkpoints.list_checkpoints(folder)
    if code == 0 and found and found[-1][0] == tiny.loss_log(folder)[-1][0]:
        return None, seconds
    if code != Interrupted.exit_code:
        child.process.kill()
        child.process.join()
        return f"exit code {code}", seconds
    try:
        reason = child.reports.recv()
    except EOFError:
        reason = ""
    if " after step " not in reason:  # before the first step: nothing done, nothing lost
        return (None if found == before else f"{before} became {found}"), seconds
    step = int(reason.split(" after step ")[1].split(".")[0])
    if found[-1][0] != step or checkpoints.find_damage(found[-1][1]) is not None:
        return f"stopped after step {step}, saved {[saved for saved, _ in found]}", seconds
    return None, seconds


VALUES = (float("nan"), float("inf"), -float("inf"), 1e38, 1e30)


def poisons(count: int) -> tuple[int, int]:
    """Number of steps skipped and recorded, and of checkpoints that are not finite."""
    chance = random.Random(9)
    caught = bad = 0
    for trial in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            step = chance.randrange(2, 38)
            poison = {step: VALUES[trial % len(VALUES)]}
            plan = {**PLAN, "num_steps": 40}
            start(folder, plan, lambda p=poison: tiny.TinyTask(poison=p)).process.join()
            lines = [json.loads(line) for line in (folder / "skipped.jsonl").open()]
            caught += [line["step"] for line in lines] == [step] and bool(lines[0]["rows"])
            for _, path in checkpoints.list_checkpoints(folder):
                found = load_file(path / "model.safetensors")
                bad += not all(bool(t.isfinite().all()) for t in found.values())
    return caught, bad


def lasting_poison() -> TrainTask:
    """Three bad steps in a row, for which a run rolls back and skips them, and single ones."""
    bad = dict.fromkeys((11, 12, 13, 41, 90), float("nan"))
    return tiny.TinyTask(poison=bad)


def figure(name: str, value: float, unit: str, goal: float, holds: bool, spread=None) -> None:
    line = {"figure": name, "value": value, "spread": spread, "unit": unit, "peer": ""}
    print(json.dumps({**line, "goal": goal, "holds": bool(holds)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--compiled-kills", type=int, default=50, help="layers compiled")
    parser.add_argument("--lever-kills", type=int, default=50, help="every lever of little text on")
    parser.add_argument("--stops", type=int, default=100)
    parser.add_argument("--poisons", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.kills:
        runs, equal, damaged = kills(args.kills)
        figure("F1 kills survived", args.kills, "kills", 200, equal == runs)
        figure("F1 runs that end in the same bytes", equal / runs, "share", 1, equal == runs)
        figure("F1 checkpoints found damaged", damaged, "checkpoints", 0, damaged == 0)
    if args.compiled_kills:
        # Fewer steps: a resumed process needs seconds before its first one.
        plan = {**PLAN, "num_steps": 400, "compile": True}
        runs, equal, damaged = kills(args.compiled_kills, plan)
        share, good = equal / runs, equal == runs and not damaged
        figure("F1 compiled, runs that end in the same bytes", share, "share", 1, good, runs)
    if args.lever_kills:
        runs, equal, damaged = kills(args.lever_kills, LEVERS_PLAN, levers_task)
        share, good = equal / runs, equal == runs and not damaged
        figure("F1 every lever on, runs that end in the same bytes", share, "share", 1, good, runs)
    if args.stops:
        result = stops(args.stops)
        figure(
            "F8 stop signals with code 75 and a checkpoint of their step",
            result.sent - len(result.failures),
            "signals",
            result.sent,
            not result.failures,
            {**result.places, "failures": result.failures},
        )
        share = result.equal / result.runs
        figure("F8 runs that end in the same bytes", share, "share", 1, share == 1, result.runs)
        slowest = max(result.seconds)
        figure("F8 slowest stop", round(slowest, 2), "s", 5, slowest <= 5)
    if args.poisons:
        caught, bad = poisons(args.poisons)
        good = caught == args.poisons
        figure("F9 poisons skipped and named", caught, "poisons", args.poisons, good)
        figure("F9 checkpoints that are not finite", bad, "checkpoints", 0, bad == 0)
        plan = {**PLAN, "num_steps": 120}
        runs, equal, _ = kills(max(2, args.poisons // 5), plan, lasting_poison)
        figure("F9 poisoned and killed, same bytes", equal / runs, "share", 1, equal == runs)


if __name__ == "__main__":
    main()
