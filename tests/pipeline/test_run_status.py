"""What `ttl status` says of a run that is done, running, stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import SMALL_RECIPE, log_of, ttl
from support.manifests import manifest_of

from teenytinyllama.artifacts.manifest import write_json, write_manifest
from teenytinyllama.errors import UserError
from teenytinyllama.pipeline import spending
from teenytinyllama.pipeline.run_status import read_status

RECIPE = {
    "name": "mine",
    "energy": {"usd_per_gpu_hour": 2.0, "usd_per_kwh": 0.5},
    "corpus": {},
    "pretrain": {"num_steps": 300},
    "evaluate": {},
}


def spent(seconds: float, kwh: float, fingerprint: str = "f") -> str:
    energy = {"gpu_measured": kwh, "cpu_modelled": 0, "ram_modelled": 0, "emissions_kg": 0}
    line = {"seconds": seconds, **energy, "started_at": "", "fingerprint": fingerprint}
    return json.dumps(line) + "\n"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose training was killed twice and started anew once before that."""
    write_json(tmp_path / "run.json", {"name": "mine", "recipe": RECIPE})
    for stage in ("corpus", "pretrain"):
        (tmp_path / stage).mkdir()
    manifest = manifest_of("corpus", duration_s=90.0, energy_kwh={"cpu_modelled": 0.2})
    write_manifest(tmp_path / "corpus", manifest)
    lines = [spent(1e6, 1e6, "other settings"), spent(1800, 1.0), spent(1800, 2.0)]
    (tmp_path / "pretrain" / spending.FILE_NAME).write_text("".join(lines))
    metrics = {"step": 100, "tokens": 50_000, "loss": 3.25, "tokens_per_s": 500.0}
    text = json.dumps(metrics) + "\n" + '{"step": 110, "lo'
    (tmp_path / "pretrain" / "metrics.jsonl").write_text(text)
    return tmp_path


@pytest.fixture
def busy(run_dir: Path) -> Iterator[Path]:
    with (run_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 12 on host\n")
        lock.flush()
        yield run_dir


def test_a_stopped_training_says_where_it_stands_and_what_it_has_cost(run_dir: Path) -> None:
    assert read_status(run_dir).text().splitlines() == [
        "mine: nothing is running",
        "corpus     done, 1 min 30 s, 200 Wh, $0.15",
        "pretrain   stopped, 1 h 00 min, 3 kWh, $3.50, step 100/300, loss 3.250, 500 tokens/s",
        "evaluate   waiting",
        "so far     1 h 01 min, 3.2 kWh, $3.65",
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "x", "tokens": 5, "tokens_per_s": 5}',
        '{"step": 0, "tokens_per_s": 1}',
        "[" * 200_000,
    ],
)
def test_a_damaged_line_of_the_log_is_left_out(busy: Path, line: str) -> None:
    with (busy / "pretrain/metrics.jsonl").open("a") as log:
        log.write(f"\n{line}\n")
    assert "pretrain   running, 1 h 00 min, 3 kWh, $3.50" in read_status(busy).text()


def test_a_running_training_says_how_long_it_will_take(busy: Path) -> None:
    lines = read_status(busy).text().splitlines()
    assert lines[0] == "mine: process 12 on host"
    assert "pretrain   running" in lines[2]
    assert lines[2].endswith("3 min 20 s left")  # 200 steps of 500 tokens


def test_asking_takes_no_lock(run_dir: Path) -> None:
    (run_dir / ".lock").touch()
    assert read_status(run_dir).process == ""
    with (run_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_json_has_the_numbers(run_dir: Path) -> None:
    found = json.loads(ttl("status", run_dir, "--json").stdout)
    assert [stage["state"] for stage in found["stages"]] == ["done", "stopped", "waiting"]
    training = found["stages"][1]
    assert (training["last_metrics"]["step"], training["num_steps"]) == (100, 300)
    assert (training["seconds"], training["energy_kwh"], training["usd"]) == (3600, 3.0, 3.5)


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        read_status(tmp_path)


def test_a_real_run(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL_RECIPE)
    log_of("run", tmp_path / "small.toml", "--run-dir", tmp_path / "run")
    (stage,) = read_status(tmp_path / "run").stages
    assert (stage.name, stage.state, stage.seconds > 0) == ("corpus", "done", True)
