"""The worker of a GGUF file: one answer after another, with a fake in place of llama.cpp."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from support.running_server import wait_until

from teenytinyllama.inference.generation import SequenceState
from teenytinyllama.inference.sampling import Sampling
from teenytinyllama.serving.generation_request import GenerationRequest, TextDelta
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.llama_cpp_worker import LlamaCppWorker
from teenytinyllama.serving.server_metrics import ServerMetrics


class FakeModel:
    """Answers `a`, `b`, `c`; stops before `b` until `proceed` is set."""

    name = "fake.gguf"

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.timings: dict[str, float] = {}
        self.proceed = threading.Event()
        self.proceed.set()
        self.closed = False

    def answer(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, stop: Sequence[str]
    ) -> Iterator[str]:
        self.finish_reason, self.timings = None, {}
        if not prompt:
            raise ValueError("broken")
        yield "a"
        self.proceed.wait(10)
        yield "b"
        yield "c"
        self.finish_reason, self.timings = "stop", {"predicted_n": 3}

    def close(self) -> None:
        self.closed = True


class Worker(LlamaCppWorker):
    """A worker that keeps what it delivers."""

    def __init__(self, model: FakeModel) -> None:
        self.delivered: list[tuple[GenerationRequest, TextDelta]] = []
        super().__init__(model, Limits(), ServerMetrics(), self.delivered.extend)

    def text_of(self, request: GenerationRequest) -> list[TextDelta]:
        return [delta for owner, delta in self.delivered if owner is request]


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker(FakeModel())
    one.start()
    yield one
    one.chat_model.proceed.set()
    one.stop()
    assert one.chat_model.closed and not one.alive


def request(prompt: tuple[int, ...] = (1,), *, streams: bool = False) -> GenerationRequest:
    return GenerationRequest("fake.gguf", SequenceState(prompt, 8), None, streams=streams)


def test_requests_are_answered_in_order_of_arrival(worker: Worker) -> None:
    first, second = request(), request(streams=True)
    worker.submit(first)
    worker.submit(second)
    wait_until(lambda: len(worker.delivered) == 5)
    assert worker.delivered[0] == (first, TextDelta("abc", "stop"))
    streamed = [TextDelta("a"), TextDelta("b"), TextDelta("c"), TextDelta("", "stop")]
    assert worker.text_of(second) == streamed
    assert first.num_generated == 3 and worker.metrics.total("generated_tokens_total") == 6


def test_a_cancelled_request_delivers_nothing_and_frees_the_worker(worker: Worker) -> None:
    worker.chat_model.proceed.clear()
    left, waiting = request(), request()
    worker.submit(left)
    wait_until(lambda: worker.num_active == 1)
    left.cancelled = True
    worker.chat_model.proceed.set()
    worker.submit(waiting)
    wait_until(lambda: worker.text_of(waiting))
    assert worker.text_of(left) == [] and worker.metrics.total("cancelled_total") == 1


def test_an_error_ends_its_answer_only(worker: Worker) -> None:
    broken, whole = request(()), request()
    worker.submit(broken)
    worker.submit(whole)
    wait_until(lambda: worker.text_of(whole))
    (delta,) = worker.text_of(broken)
    assert delta.finish_reason == "error" and str(delta.error) == "broken"
    assert worker.text_of(whole) == [TextDelta("abc", "stop")]


def test_a_worker_told_to_end_sends_the_text_so_far(worker: Worker) -> None:
    worker.chat_model.proceed.clear()
    one = request()
    worker.submit(one)
    wait_until(lambda: worker.num_active == 1)
    worker.ends_now = True
    worker.chat_model.proceed.set()
    wait_until(lambda: worker.text_of(one))
    ((text, reason, _),) = worker.text_of(one)
    assert text in ("a", "ab") and reason == "length"
