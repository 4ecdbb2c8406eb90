"""One answer on its way from the thread that generates it to the client that waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from teenytinyllama.inference.generation import Request, TextStream


class Piece(NamedTuple):
    """A part of an answer as it comes. The last one says why it ended, or what went wrong."""

    text: str
    finish: str | None = None
    fault: Exception | None = None


@dataclass(eq=False)
class Job:
    """One answer on its way from the generating thread to the client's coroutine.

    Where nobody reads along (`whole`), it is handed over once, at its end: each time the loop is
    woken, the generating thread waits for the interpreter.
    """

    model: str
    request: Request
    text: TextStream | None
    loop: asyncio.AbstractEventLoop
    whole: bool = False
    stops: Sequence[str] = ()
    pieces: asyncio.Queue[Piece] = field(default_factory=asyncio.Queue)
    started_at: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    num_given: int = 0
    held: str = ""

    async def stream(self) -> AsyncIterator[Piece]:
        """The pieces up to and with the last one. Raises what went wrong in the thread."""
        while True:
            piece = await self.pieces.get()
            if piece.fault is not None:
                raise piece.fault
            yield piece
            if piece.finish is not None:
                return
