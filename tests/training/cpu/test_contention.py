from pathlib import Path

import pytest
import torch

from teenytinyllama.training.cpu.contention import ContentionMonitor


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


def thread(tasks, number, waited_ns):
    (tasks / str(number)).mkdir(exist_ok=True)
    (tasks / str(number) / "schedstat").write_text(f"123 {waited_ns} 4\n")


def test_waits_of_all_threads_are_added(tmp_path):
    thread(tmp_path, 1, 2_000_000_000)
    thread(tmp_path, 2, 500_000_000)
    assert ContentionMonitor(tmp_path).waited_s() == 2.5


def test_reads_this_system_where_it_counts_waits():
    counts = any(Path("/proc/self/task").glob("*/schedstat"))
    assert (ContentionMonitor().waited_s() > 0) == counts


def test_warns_once_with_the_remedy(capsys):
    monitor = ContentionMonitor()
    for _ in range(5):
        monitor.record(passed_s=3.0, waited_s=2.4)
    said = capsys.readouterr().err
    assert said.count("other programs use this run's CPU cores 40% of the time") == 1
    assert "GOMP_SPINCOUNT=2500" in said


@pytest.mark.parametrize(("seconds", "waited"), [(60.0, 6.0), (4.0, 4.0)])
def test_little_waiting_and_short_periods_are_ignored(seconds, waited, capsys):
    ContentionMonitor().record(seconds, waited)
    assert not capsys.readouterr().err


def test_silent_with_one_thread_or_a_chosen_wait_policy(monkeypatch, tmp_path, capsys):
    thread(tmp_path, 1, 1)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    chosen = ContentionMonitor(tmp_path)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for silent in (chosen, ContentionMonitor(tmp_path)):
        assert silent.waited_s() == 0
        silent.record(100.0, 100.0)
    assert not capsys.readouterr().err
