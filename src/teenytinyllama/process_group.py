"""The processes (ranks) that `torchrun` or `accelerate launch` started for one command.

Rank 0 leads: it locks the run folder, decides and writes. What ranks say to each other here goes
through host memory (gloo) and may wait for any time: rank 0 may work alone for hours. Gradients go
another way, whose time-out is `RANK_TIMEOUT_S`. With one process nothing here loads torch.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar
from uuid import uuid4

from teenytinyllama.errors import Interrupted

logger = logging.getLogger(__name__)
T = TypeVar("T")

RANK_TIMEOUT_S = float(os.environ.get("TTL_RANK_TIMEOUT_S", "600"))
"""Seconds until ranks that wait for the gradients of one that hangs give up."""
# Longer than any stage: a rank that is gone is noticed by its closed connection.
LONGEST_WAIT = timedelta(days=365)


class ProcessGroup:
    """All processes, seen from this one; with one, every call returns at once."""

    def __init__(self, *, count: int | None = None, rank: int | None = None) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if count is None else count
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def leads_machine(self) -> bool:
        """Whether this is the first rank of its machine, which measures its energy."""
        return os.environ.get("LOCAL_RANK", "0") == "0"

    def wait(self) -> None:
        """Wait until every rank has arrived here."""
        self.largest([0.0])

    def broadcast(self, value: T | None) -> T:
        """The leader's value, on every rank; the others' are ignored."""
        box: list[Any] = [value]
        if self.count > 1:
            import torch.distributed as dist

            dist.broadcast_object_list(box, src=0, group=_host_group())
        value_of_leader: T = box[0]
        return value_of_leader

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank, on every rank."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=_host_group())
        return found

    def largest(self, values: list[float]) -> list[float]:
        """The largest of each value over all ranks; less work than `gather`."""
        if self.count == 1:
            return values
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=_host_group())
        found: list[float] = tensor.tolist()
        return found

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this rank works on: every n-th."""
        return items[self.rank :: self.count]

    def collect(self, mine: list[T]) -> list[T]:
        """What every rank made of its `share`, in the order of the items, on every rank."""
        parts = self.gather(mine)
        return [parts[n % self.count][n // self.count] for n in range(sum(map(len, parts)))]

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The other ranks enter once the leader has left."""
        if not self.is_leader:
            self.wait()
        yield
        if self.is_leader:
            self.wait()


ALONE = ProcessGroup(count=1, rank=0)
"""For work that one process does by itself."""


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether the error says that another rank is gone, or does not answer."""
    import torch.distributed as dist

    # gloo raises plain RuntimeErrors, with the place in its own code.
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@cache
def _host_group() -> Any:
    """The group through host memory; made once, by all ranks at the same time."""
    import torch
    import torch.distributed as dist
    from accelerate import PartialState
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    timeout = timedelta(seconds=RANK_TIMEOUT_S)
    if not dist.is_initialized() and _shares_store_with_launcher():
        dist.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore(f"ttl/{os.environ['TORCHELASTIC_RESTART_COUNT']}", _store()),
            rank=ProcessGroup().rank,
            world_size=ProcessGroup().count,
            timeout=timeout,
        )
    PartialState(cpu=not torch.cuda.is_available(), timeout=timeout)
    group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    run_id = [uuid4().hex]
    dist.broadcast_object_list(run_id, src=0, group=group)
    Heartbeat(ProcessGroup(), run_id[0]).start()
    return group


def _shares_store_with_launcher() -> bool:
    """Whether ranks on one machine meet in a store that outlives them, as `torchrun` offers.

    After a restart they would find the addresses of those before them there, and connect to nobody
    (https://github.com/pytorch/pytorch/issues/135712). Machines do not count restarts alike: with
    several, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has to be set.
    """
    env = os.environ
    is_one_machine = env.get("LOCAL_WORLD_SIZE") == env.get("WORLD_SIZE")
    return is_one_machine and env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _store() -> Any:
    """A connection of its own to the store where ranks meet."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False)


class Heartbeat:
    """A thread that tells the other ranks that this process lives, and ends it where one does not.

    A process that died closes its connections, which the others notice at once; a machine without
    power or network, or a stopped process, does not. What its main thread does is not looked at.
    """

    def __init__(self, processes: ProcessGroup, run_id: str) -> None:
        self.processes = processes
        self.limit_s = RANK_TIMEOUT_S
        self.interval_s = min(5.0, self.limit_s / 10)
        # Not the group's connection, which is busy while the main thread waits.
        self._store = _store()
        # After a restart by the launcher the store still has what ranks said before.
        self._keys = [f"ttl/heartbeat/{run_id}/{rank}" for rank in range(processes.count)]
        self._who = f"rank {processes.rank}, process {os.getpid()} on {socket.gethostname()}"
        self._beats = 0
        self._beat()

    def start(self) -> None:
        """Tell and listen, until the process ends."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(self._keys[self.processes.rank], f"{self._beats} {self._who}")

    def _run(self) -> None:
        heard: list[bytes] = [b""] * self.processes.count
        silent_s = [0.0] * self.processes.count
        try:
            while max(silent_s) < self.limit_s:
                # Its own waits are counted, not the clock: a laptop that slept was not hanging.
                time.sleep(self.interval_s)
                self._beat()
                for rank, found in enumerate(self._store.multi_get(self._keys)):
                    silent_s[rank] = silent_s[rank] + self.interval_s if found == heard[rank] else 0
                    heard[rank] = found
        except RuntimeError:
            return  # the store is gone with the launcher or rank 0: connections close with it
        self._end(silent_s.index(max(silent_s)), heard)

    def _end(self, rank: int, heard: list[bytes]) -> None:
        """The lowest rank that still answers says who does not."""
        if self.processes.rank == (1 if rank == 0 else 0):
            who = heard[rank].decode().partition(" ")[2]
            logger.error(f"{who} has not answered for {self.limit_s:.0f} s; waiting for it here:")
            faulthandler.dump_traceback(file=2, all_threads=True)  # 2: stderr
            logger.error(str(Interrupted(f"{who} does not answer")))
        else:
            time.sleep(self.interval_s)
        os._exit(Interrupted.exit_code)
