"""What a training says when other programs hold its processors."""

from pathlib import Path

import pytest
import torch

from teenytinyllama.training.cpu.contention import Contention

CPU = torch.device("cpu")


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
    assert Contention(CPU, tmp_path).waited_s() == 2.5


def test_this_system_is_read_where_it_counts():
    counts = any(Path("/proc/self/task").glob("*/schedstat"))
    assert (Contention(CPU).waited_s() > 0) == counts


def test_much_waiting_is_said_once_with_the_remedy(capsys):
    contention = Contention(CPU)
    for _ in range(5):
        contention.look(passed_s=3.0, waited_s=2.4)
    said = capsys.readouterr().err
    assert said.count("other programs hold the processors 40% of the time") == 1
    assert "GOMP_SPINCOUNT=2500" in said


@pytest.mark.parametrize(("seconds", "waited"), [(60.0, 6.0), (4.0, 4.0)])
def test_little_waiting_and_short_moments_are_not_worth_a_word(seconds, waited, capsys):
    Contention(CPU).look(seconds, waited)
    assert not capsys.readouterr().err


def test_who_chose_a_way_of_waiting_or_one_thread_is_left_alone(monkeypatch, tmp_path, capsys):
    thread(tmp_path, 1, 1)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    chosen = Contention(CPU, tmp_path)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for silent in (chosen, Contention(CPU, tmp_path), Contention(torch.device("cuda"), tmp_path)):
        assert silent.waited_s() == 0
        silent.look(100.0, 100.0)
    assert not capsys.readouterr().err
