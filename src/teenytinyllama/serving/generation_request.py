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
    """One text to generate, checked, and what has been generated so far.

    Where it does not stream, all text comes in one delta at the end: each time the event loop is
    woken, the generating thread waits for the interpreter.
    """

    model: str
    sequence: SequenceState
    text: TextStream | None
    """None for a GGUF file: llama.cpp makes the text, and looks for stop strings."""
    stop: Sequence[str] = ()
    streams: bool = False
    index: int = 0
    """Which choice of its completion this is."""
    deltas: asyncio.Queue[tuple[int, TextDelta]] = field(default_factory=asyncio.Queue)
    """The deltas of all choices of one completion, each with its index."""
    started_at: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    num_generated: int = 0
    held_text: str = ""


@dataclass(eq=False)
class Completion:
    """One call of the API: the choices asked for, which are generated side by side."""

    choices: Sequence[GenerationRequest]
    num_prompt_tokens: int
    """A prompt counts once, however many choices continue it."""
    include_usage: bool = False

    @property
    def streams(self) -> bool:
        """Whether the text is sent as it is generated."""
        return self.choices[0].streams

    async def stream(self) -> AsyncIterator[tuple[int, TextDelta]]:
        """The deltas of all choices, each with its choice's index, up to the last one of each.

        Raises the error that ended the generation of any of them.
        """
        num_open = len(self.choices)
        while num_open:
            index, delta = await self.choices[0].deltas.get()
            if delta.error is not None:
                raise delta.error
            yield index, delta
            num_open -= delta.finish_reason is not None

    def cancel(self) -> None:
        """The client has left: stop before the next token."""
        for choice in self.choices:
            choice.cancelled = True
