import os
import subprocess
import sys
from pathlib import Path

import pytest

from teenytinyllama import openmp

# Two threads meet and part 40 times: what the one that is not the main thread burns meanwhile is
# its spinning (CPU time, which other programs do not change).
SPINNING = """
import sys, threading, time, torch
from teenytinyllama import openmp

def spent_ms():
    started = time.process_time()
    for _ in range(40):
        torch.ones(200_000).add_(1)
        time.sleep(0.02)
    return 1e3 * (time.process_time() - started)

watcher = openmp.Watcher()
rates = [spent_ms()]
watcher.record(2 * openmp.CROWDED)
rates.append(spent_ms())
threads = len(threading.enumerate())
for _ in range(openmp.CHECKS_UNTIL_FREE):
    watcher.record(openmp.FREE / 2)
rates.append(spent_ms())
print(threads, len(threading.enumerate()), *rates)
"""


def thread(tasks, number, waited_ns):
    (tasks / str(number)).mkdir(exist_ok=True)
    (tasks / str(number) / "schedstat").write_text(f"123 {waited_ns} 4\n")


def test_waits_of_all_threads_are_added(tmp_path):
    thread(tmp_path, 1, 2_000_000_000)
    thread(tmp_path, 2, 500_000_000)
    assert openmp.waited_s(tmp_path) == 2.5


def test_reads_this_system_where_it_counts_waits():
    counts = any(Path("/proc/self/task").glob("*/schedstat"))
    assert (openmp.waited_s() > 0) == counts


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has GNU's OpenMP on Linux alone")
def test_threads_sleep_while_cores_are_crowded_and_spin_again_afterwards():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", SPINNING], env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    crowded, free, *spent = done.stdout.split()
    assert (int(crowded), int(free)) == (2, 1)
    before, meanwhile, after = map(float, spent)
    if os.cpu_count() > 1:  # on one core two threads never spin
        assert min(before, after) > 2 * meanwhile, done.stdout


class Started:
    """Stands for the team of threads."""

    num_ended = 0

    def __init__(self, library):
        Started.num_ended = 0

    def end(self):
        Started.num_ended += 1


class Library:
    def __init__(self, num_threads):
        self.num_threads = num_threads

    def omp_get_max_threads(self):
        return self.num_threads


def watch(monkeypatch, *measured, num_threads=2):
    """Whether threads sleep after each measurement."""
    monkeypatch.setattr(openmp, "Sleepers", Started)
    monkeypatch.setattr(openmp, "openmp_library", lambda: Library(num_threads))
    watcher = openmp.Watcher()
    sleeping = []
    for waited_per_s in measured:
        watcher.record(waited_per_s)
        sleeping.append(watcher.sleepers is not None)
    return sleeping


def test_short_quiet_does_not_wake_them(monkeypatch):
    quiet = [0.0] * openmp.CHECKS_UNTIL_FREE
    found = watch(monkeypatch, 0.1, 0.9, *quiet[1:], 0.1, *quiet, 0.9)
    assert found == [False, True, *[True] * len(quiet), *[True] * (len(quiet) - 1), False, True]


def test_one_thread_is_left_alone(monkeypatch):
    assert watch(monkeypatch, 2.0, num_threads=1) == [False]


@pytest.mark.parametrize("name", openmp.CHOSEN_BY)
def test_a_chosen_way_of_waiting_is_left_alone(monkeypatch, name):
    started = []
    monkeypatch.setattr(openmp.threading, "Thread", lambda **_: started.append(name))
    monkeypatch.setenv(name, "2500")
    openmp.watch()
    assert not started


def test_no_library_before_pytorch_is_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._C", raising=False)
    assert openmp.openmp_library() is None
