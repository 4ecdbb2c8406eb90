"""Time and size of the report, and error of the plan on runs whose cost is known.

The report is of a made-up run with the paper's number of logged steps. The plan is compared with
the paper's two runs and its successor's four, each left out of the calibration that predicts it.
No peer makes such a report or plan: the goals are our own.

    python bench/report_and_plan.py
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.planner import cost_of
from teenytinyllama.planning.reference_data import gpus, reference_runs
from teenytinyllama.planning.scaling_laws import law_offset, published_law

ROOT = Path(__file__).parents[1]
NUM_LOGGED_STEPS, REPEATS = 45_800, 5
# Tokens, MFU by our formula, hours and kWh recorded by CodeCarbon in the paper's runs.
SPENT = {
    "TTL-160m": (3_751_936_000, 0.0909, 38.73, 15.52),
    "TTL-460m": (9_830_400_000, 0.1004, 280.5, 112.97),
}

REPORT = """
import sys, time
started = time.monotonic()
sys.path.insert(0, {tests!r})
from pathlib import Path
from support.report_run import make_report
make_report(Path({run!r}))
print(time.monotonic() - started, 'torch' in sys.modules)
"""


def say(figure, value, spread, unit, goal, holds):
    row = {"figure": figure, "value": value, "spread": spread, "unit": unit}
    print(json.dumps({**row, "peer": None, "goal": goal, "holds": holds}))


def seconds_of_report(run_dir):
    code = REPORT.format(tests=str(ROOT / "tests"), run=str(run_dir))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, has_torch = done.stdout.split()
    assert has_torch == "False"
    return float(seconds)


def seconds_of_plan():
    command = [sys.executable, "-m", "teenytinyllama.cli", "plan", "--budget-usd", "50"]
    started = time.monotonic()
    subprocess.run([*command, "--text-mb", "3000", "--json"], capture_output=True, check=True)
    return time.monotonic() - started


def cpu_seconds():
    """CPU time of child processes so far: other load on the machine does not change it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spread(values):
    return round(max(values) - min(values), 3)


def main():
    sys.path.insert(0, str(ROOT / "tests"))
    from support import report_run

    with tempfile.TemporaryDirectory() as folder:
        run_dir = report_run.build_run(Path(folder) / "run")
        with (run_dir / "pretrain/metrics.jsonl").open("w") as file:
            for n in range(1, NUM_LOGGED_STEPS + 1):
                line = {"step": 10 * n, "tokens": 81920 * n, "loss": 2.8 + 4 / n, "lr": 6e-4}
                line |= {"grad_norm": 0.4, "tokens_per_s": 26912.0, "energy_kwh": n / 3000}
                file.write(json.dumps(line) + "\n")
        before = cpu_seconds()
        times = [seconds_of_report(run_dir) for _ in range(REPEATS)]
        cpu = (cpu_seconds() - before) / REPEATS
        size = (run_dir / "report/index.html").stat().st_size
    middle = statistics.median(times)
    say("report_s", round(middle, 3), spread(times), "s, imports included", "< 3", middle < 3)
    say("report_cpu_s", round(cpu, 3), 0, "CPU s", "< 3", cpu < 3)
    say("report_bytes", size, 0, "bytes", "< 3,000,000", size < 3e6)
    before = cpu_seconds()
    times = [seconds_of_plan() for _ in range(REPEATS)]
    middle, cpu = statistics.median(times), (cpu_seconds() - before) / REPEATS
    say("plan_cpu_s", round(cpu, 3), 0, "CPU s", "< 1", cpu < 1)
    say("plan_s", round(middle, 3), spread(times), "s, whole command", "< 1", middle < 1)

    chosen, misses, inside = published_law("besiroglu"), [], 0
    for one in reference_runs():
        found = law_offset(chosen, without=[one.name])
        loss = chosen.loss_repeating(
            num_parameters(one.model, 32_000), one.tokens, one.unique_tokens
        )
        misses.append(abs(loss + found.offset - one.loss))
        inside += misses[-1] <= found.half_width
    say(
        "plan_loss_miss_nats",
        round(statistics.mean(misses), 3),
        spread(misses),
        "nats",
        "inside the 95 % interval, each run left out",
        inside == len(misses),
    )
    for name, (tokens, mfu, hours, kwh) in SPENT.items():
        model = next(one.model for one in reference_runs() if one.name == name)
        request = PlanRequest(
            gpu=gpus()["a100-40gb"],
            usd_per_hour=1.29,
            text_bytes=1e12,
            mfu=mfu,
            budget_hours=hours,
            host_power_w=73.8,
            country="DEU",
        )
        cost = cost_of(request, model, 32_000, tokens)
        for key, told, spent in (("hours", cost.hours, hours), ("kwh", cost.kwh, kwh)):
            miss = told / spent - 1
            say(
                f"plan_{key}_{name}",
                round(miss, 4),
                0,
                "share of what was spent",
                "within 0.15",
                abs(miss) <= 0.15,
            )


if __name__ == "__main__":
    main()
