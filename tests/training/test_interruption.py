import multiprocessing
import os
import signal
import time

import pytest

from teenytinyllama.training.interruption import Watchdog


def quick():
    return Watchdog(limit_s=0.2, seconds_between_looks=0.02)


def hang_while(path, work):
    """In a process of its own, with standard error in a file: exit code and what was said."""

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


def test_what_hangs_is_named_shown_and_ended_with_the_code_to_go_on(tmp_path):
    def work():
        dog = quick()
        with dog.running(), dog.over("reading the rows of step 7"):
            read_for_ever()

    process = hang_while(tmp_path / "said", work)
    process.join(20)
    assert process.exitcode == 75
    said = (tmp_path / "said").read_text()
    assert "reading the rows of step 7 has taken more than 0.2 s" in said
    assert "in read_for_ever" in said  # where it hangs
    assert said.endswith("Run the same command again to go on.\n")


def test_many_short_reads_and_long_work_between_them_are_no_hang():
    dog = quick()
    with dog.running():
        for _ in range(30):
            with dog.over("a read"):
                time.sleep(0.01)
        time.sleep(0.4)  # not watched


def test_more_bytes_get_more_time():
    dog = quick()
    with dog.running(), dog.over("a save", num_bytes=5_000_000):
        time.sleep(0.4)


def test_a_process_that_was_stopped_was_not_hanging(tmp_path):
    def work():
        dog = Watchdog(limit_s=0.5, seconds_between_looks=0.02)
        with dog.running(), dog.over("a save"):
            (tmp_path / "in").write_text("")
            time.sleep(0.2)

    process = hang_while(tmp_path / "said", work)
    while not (tmp_path / "in").exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(process.pid, signal.SIGCONT)
    process.join(20)
    assert process.exitcode == 0


def test_an_error_inside_goes_on_its_way():
    dog = quick()
    with pytest.raises(KeyError), dog.running(), dog.over("a read"):
        raise KeyError("x")
    time.sleep(0.3)
