import os
import re
import signal
import time

import pytest
from support import ranks
from support.ranks import in_ranks

from teenytinyllama import process_group
from teenytinyllama.process_group import ProcessGroup, is_lost_connection


def test_one_process_needs_no_others():
    alone = ProcessGroup(count=1, rank=0)
    assert alone.is_leader
    assert alone.broadcast(5) == 5
    assert alone.gather("a") == ["a"]
    assert alone.largest([1.0, 2.0]) == [1.0, 2.0]
    assert alone.collect(alone.share([3, 1, 2])) == [3, 1, 2]
    with alone.leader_first():
        alone.wait()


def test_ranks_tell_each_other():
    def work(rank):
        group = ProcessGroup()
        assert group.rank == rank
        shares = [group.collect([2 * n for n in group.share(list(range(k)))]) for k in range(5)]
        entered = []
        with group.leader_first():
            entered.append(time.monotonic())
            if group.is_leader:
                time.sleep(0.3)
        return (
            group.broadcast("said" if group.is_leader else None),
            group.gather(rank),
            group.largest([float(rank), -float(rank)]),
            shares,
            entered[0],
        )

    found = in_ranks(3, work)
    for said, its_ranks, largest, shares, _ in found:
        assert said == "said"
        assert its_ranks == [0, 1, 2]
        assert largest == [2.0, 0.0]
        assert shares == [[2 * n for n in range(k)] for k in range(5)]
    assert min(found[1][-1], found[2][-1]) >= found[0][-1] + 0.3


def test_a_rank_that_dies_is_an_error_of_the_others_at_once():
    def work(rank):
        group = ProcessGroup()
        group.wait()
        if rank == 1:
            from threading import Timer

            Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return 0.0
        started = time.monotonic()
        with pytest.raises(RuntimeError) as caught:
            while True:
                group.wait()
        assert is_lost_connection(caught.value)
        return time.monotonic() - started

    assert in_ranks(2, work)[0] < 10


def in_two_with_stderr(tmp_path, work):
    """Start two ranks and return what each wrote; a rank's `work` may end its process."""

    def run(rank):
        handle = os.open(tmp_path / str(rank), os.O_CREAT | os.O_WRONLY)
        os.dup2(handle, 2)
        import sys

        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # noqa: SIM115
        work(rank)

    codes = ranks.exit_codes(2, run)
    return codes, [(tmp_path / str(rank)).read_text() for rank in (0, 1)]


def test_a_process_that_does_not_answer_is_named_and_ends_the_others(tmp_path):
    def work(rank):
        process_group.RANK_TIMEOUT_S = 2.0
        group = ProcessGroup()
        group.wait()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        group.wait()

    codes, said = in_two_with_stderr(tmp_path, work)
    assert codes == [75, None]  # rank 1 is stopped until its launcher kills it
    assert re.search(r"rank 1, process \d+ on \S+ has not answered for 2 s; waiting", said[0])
    assert "in wait" in said[0]  # where rank 0 waits
    assert "does not answer. Run the same command again to resume." in said[0]
