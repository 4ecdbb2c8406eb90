"""SIGKILL at even moments of every stage, most of them after start-up; then the same command again.

    python bench/faults/kill_stages.py                              # 200 kills, 25 a stage
    python bench/faults/kill_stages.py pretrain pack --kills 10
    python bench/faults/kill_stages.py levers --kills 50              # pretrain, every lever on
    python bench/faults/kill_stages.py --work FOLDER --seconds 500   # a slice: goes on where it was

The killed stage must end in the bytes of one that was left alone. Its manifest must count at least
what its processes used, seconds and energy, less half a second of each that was killed, and never
less than its own metrics say.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from interruptions import RECIPE, STAGES

from teenytinyllama.artifacts.manifest import VOLATILE_FILES, read_manifest

LEVERS = "levers"
"""Pre-training with all that docs/little-text.md names, and an ensemble in a chain."""
LEVERS_RECIPE = """num_steps = 130
schedule = { warmup_steps = 10 }
shuffle_documents = true
mask_inputs = 0.1
second_token_weight = 0.2
dropout = { residual = 0.1, mlp = 0.1, embedding = 0.1, attention = 0.1, layers = 0.1 }
averaging = { ema_decay = 0.9, last_epochs = 2 }
optimizer = { kind = "muon", weight_decay_schedule = "learning-rate", embedding_weight_decay = 0.2 }
checkpoints = { every_steps = 17, keep_weights = "best" }
ensemble = { members = 2, chained = true }
evaluate_every_steps = 9
model = { kind = "qwen3", """

# Starting the interpreter and our command, before the stage's clock starts; a busy machine is slow.
BEFORE_THE_CLOCK_S = 3.0


def ttl(folder: Path, stage: str, *, kill_after: float | None = None) -> tuple[int, float]:
    """Run one stage; exit code and seconds. Killed after that many seconds, if any."""
    command = [sys.executable, "-m", "teenytinyllama.cli", stage, "r.toml", "--run-dir", "run"]
    started = time.monotonic()
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            child.wait(kill_after)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return child.returncode, time.monotonic() - started


def content(stage_dir: Path) -> dict[str, str]:
    """Hashes of what the stage left, without times and rates."""
    manifest = read_manifest(stage_dir)
    assert manifest is not None, stage_dir
    return {
        name: output.sha256
        for name, output in manifest.outputs.items()
        if Path(name).name not in VOLATILE_FILES
    }


def recipe_of(case: str) -> str:
    if case != LEVERS:
        return RECIPE.replace("num_steps = 30", "num_steps = 400")
    small = RECIPE.replace("num_documents = 300", "num_documents = 40")  # 130 steps are 3.1 epochs
    return small.replace("num_steps = 30\nmodel = { ", LEVERS_RECIPE)


def stage_of(case: str) -> str:
    return "pretrain" if case == LEVERS else case


def reference(work: Path, case: str) -> Path:
    """A run that is finished up to a stage, with each command's seconds; what is there stays."""
    until = stage_of(case)
    folder = work / (LEVERS if case == LEVERS else "whole")
    path = folder / "times.json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "r.toml").write_text(recipe_of(case))
    times = json.loads(path.read_text()) if path.is_file() else {}
    for stage in STAGES[: STAGES.index(until) + 1]:
        if stage not in times:
            code, times[stage] = ttl(folder, stage)
            assert code == 0, (folder / "log").read_text()[-500:]
            path.write_text(json.dumps(times))
    return folder


def trial(work: Path, case: str, moments: list[float]) -> dict[str, Any]:
    """Kill one stage at these shares of its time, one after the other; what came of it."""
    whole, stage = reference(work, case), stage_of(case)
    seconds = json.loads((whole / "times.json").read_text())[stage]
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        folder = Path(scratch)
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        for later in STAGES[STAGES.index(stage) :]:
            shutil.rmtree(folder / "run" / later, ignore_errors=True)
        num_killed, lasted = 0, 0.0
        for share in moments:
            code, took = ttl(folder, stage, kill_after=share * seconds)
            num_killed += code == -9
            lasted += max(took - BEFORE_THE_CLOCK_S, 0)
            if code == 0:
                break
        code, took = ttl(folder, stage)
        lasted += max(took - BEFORE_THE_CLOCK_S, 0)
        stage_dir = folder / "run" / stage
        manifest = read_manifest(stage_dir) if code == 0 else None
        if manifest is None:
            return {"stage": case, "kills": num_killed, "code": code, "good": False}
        metrics, energy = manifest.metrics, sum(manifest.energy_kwh.values())
        result = {
            "stage": case,
            "kills": num_killed,
            "same": content(stage_dir) == content(whole / "run" / stage),
            "seconds": manifest.duration_s,
            "seconds_at_least": round(lasted - num_killed, 3),
            "energy_kwh": energy,
            "covers_metrics": energy >= metrics.get("energy_kwh", 0)
            and manifest.duration_s >= metrics.get("training_seconds", 0),
        }
        enough = result["seconds"] >= result["seconds_at_least"]
        return {**result, "good": result["same"] and enough and result["covers_metrics"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", default=[*STAGES, LEVERS])
    parser.add_argument("--kills", type=int, default=25, help="kills of each stage")
    parser.add_argument("--a-run", type=int, default=5, help="kills of one trial")
    parser.add_argument("--work", type=Path, help="folder in which slices go on")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    args = parser.parse_args()
    ends = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        path = work / "results.jsonl"
        done = [json.loads(line) for line in path.open()] if path.is_file() else []
        for stage in args.stages:
            before = sum(row["kills"] for row in done if row["stage"] == stage)
            number = sum(row["stage"] == stage for row in done)
            while before < args.kills and number < 4 * args.kills and time.monotonic() < ends:
                # Even moments of the whole command: its start-up is about two fifths of it.
                places = [(number * args.a_run + i) * 0.618034 % 1 for i in range(args.a_run)]
                row = trial(work, stage, places)
                done.append(row)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                before, number = before + row["kills"], number + 1
                print(row, file=sys.stderr, flush=True)
        report(done)


def report(done: list[dict[str, Any]]) -> None:
    """The figures."""
    kills = sum(row["kills"] for row in done)
    bad = [row for row in done if not row["good"]]
    share = 1 - len(bad) / max(len(done), 1)
    line = {"figure": "F13b stages killed: same bytes, no less time and energy", "value": share}
    line |= {"spread": {"kills": kills, "bad": bad[:10]}, "unit": "share of runs", "peer": ""}
    print(json.dumps({**line, "goal": 1, "holds": not bad and kills > 0}), flush=True)


if __name__ == "__main__":
    main()
