import multiprocessing
import os
import signal
import time

import pytest
from support.ranks import exit_codes
from support.tiny_training import TinyTask, loop_of, settings

from teenytinyllama import process_group
from teenytinyllama.errors import Interrupted
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.training.interruption import Watchdog


def quick():
    return Watchdog(limit_s=0.2, seconds_between_checks=0.02)


def start_process(path, work):
    """Run `work` in a process of its own, with standard error in a file."""

    def run():
        handle = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.dup2(handle, 2)
        import sys

        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # noqa: SIM115
        work()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def read_for_ever():
    time.sleep(60)


def test_hanging_work_is_reported_and_ends_with_code_75(tmp_path):
    def work():
        watchdog = quick()
        with watchdog.running(), watchdog.watch("reading the rows of step 7"):
            read_for_ever()

    process = start_process(tmp_path / "said", work)
    process.join(20)
    assert process.exitcode == 75
    said = (tmp_path / "said").read_text()
    assert "reading the rows of step 7 has taken more than 0.2 s" in said
    assert "in read_for_ever" in said  # where it hangs
    lost = "the disk, the network folder or another process"
    reason = f"reading the rows of step 7 hangs; is {lost} still there?"
    assert said.endswith(f"{Interrupted(reason)}\n")


def test_many_short_reads_and_unwatched_work_are_no_hang():
    watchdog = quick()
    with watchdog.running():
        for _ in range(30):
            with watchdog.watch("a read"):
                time.sleep(0.01)
        time.sleep(0.4)  # not watched


def test_more_bytes_get_more_time():
    watchdog = quick()
    with watchdog.running(), watchdog.watch("a save", num_bytes=5_000_000):
        time.sleep(0.4)


def test_a_stopped_process_was_not_hanging(tmp_path):
    def work():
        watchdog = Watchdog(limit_s=0.5, seconds_between_checks=0.02)
        with watchdog.running(), watchdog.watch("a save"):
            (tmp_path / "in").write_text("")
            time.sleep(0.2)

    process = start_process(tmp_path / "said", work)
    while not (tmp_path / "in").exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(process.pid, signal.SIGCONT)
    process.join(20)
    assert process.exitcode == 0


def test_an_error_in_watched_work_is_passed_on():
    watchdog = quick()
    with pytest.raises(KeyError), watchdog.running(), watchdog.watch("a read"):
        raise KeyError("x")
    time.sleep(0.3)


def test_a_rank_that_hangs_in_a_step_ends_all_with_the_stacks_of_each(tmp_path):
    """In its own work: the others wait for its gradients, and say where."""

    class Hangs(TinyTask):
        def micro_batch(self, step, rows):
            if step == 2 and ProcessGroup().rank == 1:
                hang_for_ever()
            return super().micro_batch(step, rows)

    def work(rank):
        process_group.RANK_TIMEOUT_S = 3.0
        handle = os.open(tmp_path / str(rank), os.O_CREAT | os.O_WRONLY)
        os.dup2(handle, 2)
        import sys

        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # noqa: SIM115
        loop_of(tmp_path / "run", task=Hangs(), plan=settings()).run()

    assert exit_codes(2, work) == [75, 75]
    said = [(tmp_path / str(rank)).read_text() for rank in (0, 1)]
    for rank, text in enumerate(said):
        assert f"step 2 on rank {rank} of 2 has taken more than 3.0 s. It hangs here:" in text
        assert "Run the same command again to resume." in text
    assert "in hang_for_ever" in said[1]
    assert "in hang_for_ever" not in said[0]
    assert "in _accumulate" in said[0]


def hang_for_ever():
    time.sleep(60)
