"""The scheduler: continuous batching, cancellation, a full queue, draining."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest
from openai import AsyncOpenAI
from support.running_server import RunningServer, running, wait_until

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.inference.generation import SequenceState
from teenytinyllama.serving.generation_request import GenerationRequest, TextDelta
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.scheduler import BatchScheduler
from teenytinyllama.serving.server_metrics import ServerMetrics


def test_64_clients_get_the_text_of_one_client(server: RunningServer) -> None:
    prompts = [f"A raposa número {i} " * (1 + i % 3) for i in range(64)]

    async def all_at_once(num_at_once: int) -> list[str]:
        line = asyncio.Semaphore(num_at_once)
        url = f"{server.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", timeout=60) as client:

            async def one(prompt: str) -> str:
                async with line:
                    answer = await client.completions.create(
                        model="tiny", prompt=prompt, temperature=0, max_tokens=8
                    )
                    return answer.choices[0].text

            return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(all_at_once(64)) == asyncio.run(all_at_once(1))


def test_a_client_that_leaves_costs_at_most_one_more_token(chat_model: ChatModel) -> None:
    with running([chat_model]) as server:
        scheduler, metrics = server.app.scheduler, server.app.metrics
        step, release = chat_model.decoder.decode_step, threading.Event()
        decoder = scheduler.batches["tiny"].decoder
        steps = []

        def slow_step(cache: object, ids: list[int]) -> object:
            steps.append(metrics.total("cancelled_total"))
            release.wait(0.03)
            return step(cache, ids)

        decoder.decode_step = slow_step  # type: ignore[method-assign]
        try:
            connection = HTTPConnection("127.0.0.1", server.port)
            body = '{"model": "tiny", "prompt": "A", "max_tokens": 100, "stream": true}'
            head = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", body, head)
            connection.getresponse().read(50)
            wait_until(lambda: len(steps) >= 3)
            before = len(steps)
            connection.sock.close() if connection.sock else connection.close()
            connection.close()
            wait_until(lambda: metrics.total("cancelled_total") == 1)
            assert len(steps) - before <= 2  # the token being computed when it left, and the next
            wait_until(lambda: scheduler.num_active == 0)
        finally:
            del decoder.decode_step


def test_an_answer_that_does_not_stream_wakes_the_loop_once(chat_model: ChatModel) -> None:
    """Many waiting clients then do not slow the thread that generates for them."""
    with running([chat_model]) as server:
        delivered: list[GenerationRequest] = []
        body = {"model": "tiny", "prompt": "A", "max_tokens": 30, "temperature": 0}
        deliver = server.app.scheduler._deliver

        def counted(deltas: list[tuple[GenerationRequest, TextDelta]]) -> None:
            delivered.extend(request for request, _ in deltas)
            deliver(deltas)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server.app.scheduler, "_deliver", counted)
            whole = server.ask("/v1/completions", body)[1]
            assert len(delivered) == 1
            streamed = server.ask("/v1/completions", {**body, "stream": True})[1]
        assert len(delivered) > 5
    assert whole["usage"]["completion_tokens"] > 5
    events = [json.loads(row[6:]) for row in streamed.split("\n\n")[:-2]]
    assert "".join(e["choices"][0]["text"] for e in events) == whole["choices"][0]["text"]


def test_prefill_is_split_while_answers_are_decoded(chat_model: ChatModel) -> None:
    batch = BatchScheduler(chat_model, Limits(), ServerMetrics())

    def requests() -> list[GenerationRequest]:
        return [
            GenerationRequest("tiny", SequenceState([1] * 100, 20), chat_model.text_stream())
            for _ in range(20)
        ]

    batch.step(requests())  # none is decoded: 2,000 tokens in one pass
    assert batch.num_active == 20
    batch.step(requests())  # 512 tokens a pass, between two tokens of the others
    assert batch.num_active == 25
    for _ in range(3):
        batch.step([])
    assert batch.num_active == 40


def test_a_full_queue_gets_503_with_retry_after(chat_model: ChatModel) -> None:
    with running([chat_model], Limits(max_rows=1, max_waiting=1)) as server:
        body = {"model": "tiny", "prompt": "A", "max_tokens": 100, "seed": 1}
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.ask("/v1/completions", body), range(12)))
        statuses = [status for status, _, _ in answers]
        assert set(statuses) == {200, 503}
        refused = next(answer for answer in answers if answer[0] == 503)
        assert refused[2].getheader("retry-after") == "2"
        assert refused[1]["error"]["code"] == "busy"


def test_stopping_waits_for_running_answers(chat_model: ChatModel) -> None:
    with ThreadPoolExecutor(1) as pool:
        with running([chat_model]) as server:
            body = {"model": "tiny", "prompt": "A", "max_tokens": 120, "seed": 1}
            answer = pool.submit(server.ask, "/v1/completions", body)
            wait_until(lambda: server.app.scheduler.num_active == 1)
        assert answer.result()[0] == 200


def test_a_prefill_without_memory_fails_alone(
    chat_model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = BatchScheduler(chat_model, Limits(), ServerMetrics())
    first, second = [
        GenerationRequest("tiny", SequenceState([1] * 5, 4), chat_model.text_stream())
        for _ in range(2)
    ]
    batch.step([first])
    with monkeypatch.context() as patch:
        patch.setattr(batch.decoder, "prefill", lambda *_: 1 / 0)
        failed = batch.step([second])
    assert [request for request, delta in failed if delta.error] == [second]
    ended: list[tuple[GenerationRequest, TextDelta]] = []
    while batch.busy:
        ended += batch.step([])
    assert [(request, delta.finish_reason) for request, delta in ended] == [(first, "length")]


def test_a_model_with_nan_gets_500_and_the_server_lives(
    chat_model: ChatModel, server: RunningServer
) -> None:
    broken, whole = chat_model.decoder.norm.clone(), chat_model.decoder.norm
    body = {"model": "tiny", "prompt": "A", "max_tokens": 3}
    chat_model.decoder.norm = broken * float("nan")
    try:
        status, answer, _ = server.ask("/v1/completions", body)
        streamed = server.ask("/v1/completions", {**body, "stream": True})
    finally:
        chat_model.decoder.norm = whole
    assert (status, answer["error"]["code"]) == (500, "model-not-finite")
    assert '"code":"model-not-finite"' in streamed[1]
    assert server.ask("/v1/completions", body)[0] == 200
