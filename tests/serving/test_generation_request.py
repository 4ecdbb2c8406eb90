"""A request's deltas as its client reads them."""

from __future__ import annotations

import asyncio

import pytest

from teenytinyllama.inference.generation import SequenceState
from teenytinyllama.serving.generation_request import Completion, GenerationRequest, TextDelta


async def read(*deltas: tuple[int, TextDelta], num_choices: int = 1) -> list[str]:
    requests = [GenerationRequest("tiny", SequenceState([1], 4), None) for _ in range(num_choices)]
    for delta in deltas:
        requests[0].deltas.put_nowait(delta)
    return [f"{index}{delta.text}" async for index, delta in Completion(requests, 1).stream()]


def test_the_stream_ends_with_the_finish_reason_of_the_last_choice() -> None:
    deltas = (0, TextDelta("a")), (0, TextDelta("b", "stop")), (0, TextDelta("never read"))
    assert asyncio.run(read(*deltas)) == ["0a", "0b"]
    deltas = (1, TextDelta("a", "stop")), (0, TextDelta("b")), (0, TextDelta("c", "length"))
    assert asyncio.run(read(*deltas, num_choices=2)) == ["1a", "0b", "0c"]


def test_the_stream_raises_the_error_of_the_generating_thread() -> None:
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read((0, TextDelta("a")), (0, TextDelta("", "error", ValueError("broken")))))
