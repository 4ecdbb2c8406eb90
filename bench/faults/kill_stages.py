"""SIGKILL at even moments of every stage, 60 % of them after start-up; then the same command again.

    python bench/faults/kill_stages.py                              # 200 kills, 25 a stage
    python bench/faults/kill_stages.py pretrain pack --kills 10
    python bench/faults/kill_stages.py levers --kills 50              # pretrain, every lever on
    python bench/faults/kill_stages.py --work FOLDER --seconds 500   # a slice: goes on where it was

The killed stage must end in the bytes of one that was left alone. Its manifest must count at least
the seconds from its clock's start to the end of every process, less one second of each that was
killed, the energy that every process had written down, and never less than its own metrics say.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from interruptions import RECIPE, STAGES

from teenytinyllama.artifacts.manifest import MANIFEST_NAME, VOLATILE_FILES, read_manifest
from teenytinyllama.pipeline import spending

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

COST = re.compile(r"seconds|_per_s$|energy|kwh|joules|emissions")
# Share of the moments in start-up: the interpreter, the imports, the checks of the recipe.
START_UP = 0.4
LOST_S = 1.0  # that a killed process may not have written down


class Ended(NamedTuple):
    """How a process of one stage ended: its code, and seconds before and after its clock began."""

    code: int
    start_up_s: float
    worked_s: float


def ttl(folder: Path, stage: str, kill_at: tuple[float, float] | None = None) -> Ended:
    """Run one stage; killed after so many seconds of start-up, or of work if these are not 0."""
    command = [sys.executable, "-m", "teenytinyllama.cli", stage, "r.toml", "--run-dir", "run"]
    stage_dir = folder / "run" / stage
    clock = stage_dir / spending.FILE_NAME
    lines = clock.stat().st_size if clock.is_file() else 0
    started, clock_started, clock_ended = time.monotonic(), 0.0, 0.0
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while child.poll() is None:
            if not clock_started and clock.is_file() and clock.stat().st_size > lines:
                clock_started = time.monotonic()
            if not clock_ended and (stage_dir / MANIFEST_NAME).is_file():
                clock_ended = time.monotonic()
            if kill_at is not None:
                in_start_up, in_work = kill_at
                since, limit = (clock_started, in_work) if in_work else (started, in_start_up)
                if since and time.monotonic() - since >= limit:
                    child.kill()
            time.sleep(0.003)
    clock_ended = clock_ended or time.monotonic()
    clock_started = clock_started or clock_ended
    return Ended(child.returncode, clock_started - started, clock_ended - clock_started)


def kwh_of(energy: dict[str, float]) -> float:
    """The sum over the parts of the machine."""
    return sum(value for name, value in energy.items() if name != "emissions_kg")


def content(stage_dir: Path) -> dict[str, str]:
    """Hashes of what the stage left, without times, rates and energy."""
    manifest = read_manifest(stage_dir)
    assert manifest is not None, stage_dir
    found = {
        name: output.sha256
        for name, output in manifest.outputs.items()
        if Path(name).name not in VOLATILE_FILES
    }
    for name in found:
        if name.endswith(".json"):
            found[name] = json.dumps(without_cost(json.loads((stage_dir / name).read_bytes())))
    return found


def without_cost(value: Any) -> Any:
    """A value of JSON without the fields that say what something cost."""
    if isinstance(value, dict):
        return {k: without_cost(v) for k, v in value.items() if not COST.search(k)}
    return [without_cost(one) for one in value] if isinstance(value, list) else value


def recipe_of(case: str) -> str:
    if case != LEVERS:
        return RECIPE.replace("num_steps = 30", "num_steps = 400")
    small = RECIPE.replace("num_documents = 300", "num_documents = 40")  # 130 steps are 3.1 epochs
    return small.replace("num_steps = 30\nmodel = { ", LEVERS_RECIPE)


def stage_of(case: str) -> str:
    return "pretrain" if case == LEVERS else case


def reference(work: Path, case: str) -> Path:
    """A run that is finished up to a stage, with the seconds of each; what is there stays."""
    until = stage_of(case)
    folder = work / (LEVERS if case == LEVERS else "whole")
    path = folder / "times.json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "r.toml").write_text(recipe_of(case))
    times = json.loads(path.read_text()) if path.is_file() else {}
    for stage in STAGES[: STAGES.index(until) + 1]:
        if stage not in times:
            ended = ttl(folder, stage)
            assert ended.code == 0, (folder / "log").read_text()[-500:]
            times[stage] = ended.start_up_s, ended.worked_s
            path.write_text(json.dumps(times))
    return folder


def trial(work: Path, case: str, moments: list[float]) -> dict[str, Any]:
    """Kill one stage at these shares of its time, one after the other; what came of it."""
    whole, stage = reference(work, case), stage_of(case)
    start_up_s, work_s = json.loads((whole / "times.json").read_text())[stage]
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        folder = Path(scratch)
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        for later in STAGES[STAGES.index(stage) :]:
            shutil.rmtree(folder / "run" / later, ignore_errors=True)
        stage_dir = folder / "run" / stage
        processes: list[Ended] = []
        written_kwh = 0.0
        for share in moments:
            into_work = (share - START_UP) / (1 - START_UP)
            in_start_up = (share / START_UP * start_up_s, 0.0)
            kill_at = in_start_up if into_work <= 0 else (0.0, into_work * work_s)
            processes.append(ttl(folder, stage, kill_at))
            written_kwh = sum(kwh_of(row.energy._asdict()) for row in spending.read_all(stage_dir))
            if processes[-1].code == 0:
                break
        if processes[-1].code != 0:
            processes.append(ttl(folder, stage))
        code, killed = processes[-1].code, [one for one in processes if one.code == -9]
        lasted = sum(one.worked_s for one in processes)
        num_killed = len(killed)
        num_after = sum(one.worked_s > 0 for one in killed)
        manifest = read_manifest(stage_dir) if code == 0 else None
        if manifest is None:
            return {"stage": case, "kills": num_killed, "code": code, "good": False}
        metrics, energy = manifest.metrics, kwh_of(manifest.energy_kwh)
        result = {
            "stage": case,
            "kills": num_killed,
            "after_start_up": num_after,
            "same": content(stage_dir) == content(whole / "run" / stage),
            "seconds": manifest.duration_s,
            "seconds_at_least": round(lasted - LOST_S * num_after, 3),
            "energy_kwh": energy,
            "energy_kwh_at_least": written_kwh,
            "covers_metrics": energy >= metrics.get("energy_kwh", 0)
            and manifest.duration_s >= metrics.get("training_seconds", 0),
        }
        enough = result["seconds"] >= result["seconds_at_least"] and energy >= written_kwh
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
                # Even moments: the golden section spreads any number of them.
                places = [(number * args.a_run + i) * 0.618034 % 1 for i in range(args.a_run)]
                row = trial(work, stage, places)
                done.append(row)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                before, number = before + row["kills"], number + 1
                print(row, file=sys.stderr, flush=True)
        report(done)


def report(done: list[dict[str, Any]]) -> None:
    """The figures: bytes, and what was counted of seconds and energy."""
    kills = sum(row["kills"] for row in done)
    after = sum(row.get("after_start_up", 0) for row in done)
    cases = len({row["stage"] for row in done})
    unit = f"share of {len(done)} runs of {cases} stages, {kills} kills, {after} after start-up"
    for name, is_bad in (
        ("same bytes", lambda row: not row.get("same")),
        ("no less time and energy", lambda row: row.get("same") and not row["good"]),
    ):
        bad = [row for row in done if is_bad(row)]
        line = {"figure": f"F13b killed stages, {name}", "value": 1 - len(bad) / max(len(done), 1)}
        line |= {"spread": {"bad": bad[:10]}, "unit": unit, "peer": "", "goal": 1}
        print(json.dumps({**line, "holds": not bad and kills > 0}), flush=True)


if __name__ == "__main__":
    main()
