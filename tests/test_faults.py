"""Short runs of the fault-injection trials in bench/faults (`make faults` runs them in full)."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FAULTS = Path(__file__).parents[1] / "bench" / "faults"


def load(path):
    spec = importlib.util.spec_from_file_location(f"faults_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # forked children must not share a thread pool
    yield
    torch.set_num_threads(before)


def test_f2_f3_crashes_and_full_disks_during_a_save():
    damage = load(FAULTS / "checkpoint_damage.py")
    queue = damage.multiprocessing.get_context("fork").SimpleQueue()
    damage.in_child(lambda: queue.put(damage.count_operations()))
    num_operations = queue.get()
    assert num_operations > 30
    trials, good = damage.crashes(range(1, num_operations + 1, 5))
    assert good == trials > 15
    trials, good = damage.full_disks(range(3, num_operations + 1, 5))
    assert good == trials > 10


def test_f4_damaged_checkpoints():
    trials, good = load(FAULTS / "checkpoint_damage.py").damages(40)
    assert good == trials == 40


def test_f5_power_cuts():
    trial = load(FAULTS / "power_loss.py").run(num_steps=3, every=9)
    assert trial.num_states > 40
    assert trial.num_lost == 0


def test_f5_detects_a_save_without_fsync(monkeypatch):
    power_loss = load(FAULTS / "power_loss.py")
    monkeypatch.setattr(power_loss.checkpoints, "sync_folder", lambda folder: None)
    assert power_loss.run(num_steps=2, every=9).num_lost > 0


def test_f8_stop_signals():
    result = load(FAULTS / "kills.py").stops(6, num_steps=60)
    assert result.failures == []
    assert (result.sent, result.equal) == (6, result.runs)
    assert set(result.places) >= {"reading rows", "evaluation", "samples", "save"}


def test_f9_nan_gradients_with_kills():
    kills = load(FAULTS / "kills.py")
    assert kills.poisons(2) == (2, 0)
    runs, equal, damaged = kills.kills(2, {**kills.PLAN, "num_steps": 60}, kills.lasting_poison)
    assert (equal, damaged) == (runs, 0)


def test_f10_seek_to_step_one_million(tmp_path):
    data_size = load(FAULTS.parent / "data_size.py")
    folder = data_size.sparse_tokens(tmp_path / "tokens", 2_000_000_000)
    _, seconds, memory = data_size.seek(folder, 1_000_000)
    assert min(seconds) < 0.05  # wall clock: other work may share the machine
    assert memory < 50e6


def test_f20_short_soak():
    soak = load(FAULTS / "soak.py")
    rows, num_kills, most, last = soak.run(seconds=3, kill_every_s=1.5)
    assert num_kills >= 2
    assert last > 0
    assert most <= 4
    assert len({row[3] for row in rows}) == 1  # open files


@pytest.mark.slow  # its parts are in training/test_interruption.py and test_metrics_logger.py
def test_f21_stalls_are_detected():
    results = load(FAULTS / "stalls.py").run(limit_s=0.5)
    assert [name for name, (answered, _) in results.items() if not answered] == []
