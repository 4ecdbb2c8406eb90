"""A client's request as it passes from the event loop to the generating thread and back as text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from teenytinyllama.inference.generation import SequenceState
from teenytinyllama.inference.text_stream import TextStream


class TextDelta(NamedTuple):
    """New text of an answer. The last one says why it ended, or which error ended it."""

    text: str
    finish_reason: str | None = None
    error: Exception | None = None


@dataclass(eq=False)
class GenerationRequest:
    """One request, checked, and its answer so far.

    Where it does not stream, all text comes in one delta at the end: each time the event loop is
    woken, the generating thread waits for the interpreter.
    """

    model: str
    sequence: SequenceState
    text: TextStream | None
    """None for a GGUF file: llama.cpp makes the text, and looks for stop strings."""
    stop: Sequence[str] = ()
    streams: bool = False
    include_usage: bool = False
    deltas: asyncio.Queue[TextDelta] = field(default_factory=asyncio.Queue)
    started_at: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    num_generated: int = 0
    held_text: str = ""

    async def stream(self) -> AsyncIterator[TextDelta]:
        """The deltas up to the last one. Raises the error that ended the generation."""
        while True:
            delta = await self.deltas.get()
            if delta.error is not None:
                raise delta.error
            yield delta
            if delta.finish_reason is not None:
                return
