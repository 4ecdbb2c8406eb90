"""The processes (ranks) that `torchrun` or `accelerate launch` started for one command.

Rank 0 leads: it locks the run folder, decides and writes. What ranks say to each other here goes
through host memory (gloo) and may wait for any time: rank 0 may work alone for hours. Gradients go
another way, whose time-out is `RANK_TIMEOUT_S`. With one process nothing here loads torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

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

    PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(seconds=RANK_TIMEOUT_S))
    return dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
