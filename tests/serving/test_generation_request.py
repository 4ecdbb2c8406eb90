"""A request's deltas as its client reads them."""

from __future__ import annotations

import asyncio

import pytest

from teenytinyllama.inference.generation import SequenceState
from teenytinyllama.serving.generation_request import GenerationRequest, TextDelta


async def read(*deltas: TextDelta) -> list[str]:
    request = GenerationRequest("tiny", SequenceState([1], 4), None)
    for delta in deltas:
        request.deltas.put_nowait(delta)
    return [delta.text async for delta in request.stream()]


def test_the_stream_ends_with_the_finish_reason() -> None:
    deltas = TextDelta("a"), TextDelta("b", "stop"), TextDelta("never read")
    assert asyncio.run(read(*deltas)) == ["a", "b"]


def test_the_stream_raises_the_error_of_the_generating_thread() -> None:
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read(TextDelta("a"), TextDelta("", "error", ValueError("broken"))))
