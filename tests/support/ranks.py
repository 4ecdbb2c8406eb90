"""Several ranks over gloo, forked from the test's process: torch is not imported again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from teenytinyllama.errors import TtlError


def in_ranks(
    count: int, work: Callable[[int], Any], *, timeout: float = 120, **variables: str
) -> list[Any]:
    """What `work(rank)` returned in each of `count` processes, or the TtlError that it raised.

    An assertion or any other exception of a rank fails the test.
    """
    children, pipes = _start(count, work, variables)
    found = []
    for reading in pipes:
        assert reading.poll(timeout), "a rank does not answer"
        found.append(reading.recv())
    for child in children:
        child.join(timeout)
    failed = [text for kind, text in found if kind == "failed"]
    assert not failed, "\n".join(failed)
    return [value for _, value in found]


def exit_codes(count: int, work: Callable[[int], Any], *, timeout: float = 60) -> list[int | None]:
    """How each of `count` processes ended: its code; None for one that had to be killed."""
    children, _ = _start(count, work, {})
    codes = []
    for child in children:
        child.join(timeout if not codes else 5)
        codes.append(child.exitcode)
        if child.is_alive():
            child.kill()
            child.join()
    return codes


def _start(
    count: int, work: Callable[[int], Any], variables: dict[str, str]
) -> tuple[list[Any], list[Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children, pipes = [], []
    for rank in range(count):
        reading, writing = context.Pipe(duplex=False)
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            # As torchrun sets it. Without it accelerate takes all cores, and a pool of threads does
            # not survive a fork.
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        child = context.Process(target=_run, args=(work, rank, environment, writing))
        child.start()
        pipes.append(reading)
        children.append(child)
    return children, pipes


def _run(work: Callable[[int], Any], rank: int, environment: dict[str, str], answer: Any) -> None:
    os.environ.update(environment)
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    torch.set_num_threads(1)
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()  # of the test's own process
    try:
        answer.send(("value", work(rank)))
    except TtlError as error:
        answer.send(("value", error))
    except BaseException:
        answer.send(("failed", f"rank {rank}: {traceback.format_exc()}"))
    finally:
        os._exit(0)  # past pytest's own exit handlers
