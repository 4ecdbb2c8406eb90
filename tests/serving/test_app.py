"""OpenAI's API, asked by OpenAI's own client over a real connection."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from support.running_server import Running, running, wait_until

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.inference.generation import Request, generate
from teenytinyllama.serving import scheduler as engine_module
from teenytinyllama.serving.access_guard import Guard
from teenytinyllama.serving.generation_request import Job, Piece
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.scheduler import Lane
from teenytinyllama.serving.server_metrics import Metrics

HELLO = [{"role": "user", "content": "Olá, raposa! 🦊"}]
KEY = "chave-com-mais-de-dezesseis"


@pytest.fixture
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_models_are_listed_with_their_context(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert model.model_extra is not None and model.model_extra["max_model_len"] == 128


def test_chat_gives_the_text_of_generate_and_counts_its_tokens(
    client: OpenAI, chat_model: ChatModel
) -> None:
    prompt = chat_model.prompt_of(HELLO)
    (ids,) = generate(
        chat_model.decoder, [prompt], max_new_tokens=12, stop_ids=[chat_model.encoder.eos_id]
    )
    spoken = chat_model.text_stream()
    expected = "".join(map(spoken.push, ids)) + spoken.finish()
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=12
    )
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(ids)
    assert answer.usage.total_tokens == len(prompt) + len(ids)


def test_a_stream_says_the_same_and_ends_with_usage(client: OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**asked)
    pieces, reasons, usage = "", [], None
    for event in client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        for choice in event.choices:
            pieces += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usage = event.usage or usage
    assert pieces == whole.choices[0].message.content
    assert reasons == [whole.choices[0].finish_reason]
    assert usage == whole.usage


def test_the_wire_carries_events_and_done(server: Running) -> None:
    asked = {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 4}
    status, text, response = server.ask("/v1/chat/completions", asked)
    assert status == 200
    assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_a_completion_goes_on_with_text_or_ids(client: OpenAI, chat_model: ChatModel) -> None:
    asked = {"model": "tiny", "temperature": 0, "max_tokens": 6}
    by_text = client.completions.create(prompt="A raposa mora", **asked)
    ids = [chat_model.encoder.bos_id, *chat_model.encoder.encode("A raposa mora")]
    assert client.completions.create(prompt=ids, **asked).choices[0].text == by_text.choices[0].text
    streamed = client.completions.create(prompt="A raposa mora", stream=True, **asked)
    assert "".join(e.choices[0].text for e in streamed) == by_text.choices[0].text


def test_a_stop_string_ends_the_answer_before_it(client: OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = whole[4:6]
    short = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert short.message.content == whole[: whole.index(stop)]
    assert short.finish_reason == "stop"


def test_equal_seeds_give_equal_text_and_none_gives_another(client: OpenAI) -> None:
    def said(**more: object) -> str | None:
        asked = {"model": "tiny", "messages": HELLO, "temperature": 1.5, "max_tokens": 24, **more}
        return client.chat.completions.create(**asked).choices[0].message.content

    assert said(seed=7) == said(seed=7) != said(seed=8)
    assert said(seed=-7) == said(seed=-7)
    assert said() != said()


def test_sixty_four_clients_get_what_one_gets(server: Running) -> None:
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
        engine, metrics = server.app.engine, server.app.metrics
        step, release = chat_model.decoder.step, __import__("threading").Event()
        lane = engine.lanes["tiny"]
        steps = []

        def slow_step(memory: object, ids: list[int]) -> object:
            steps.append(metrics.total("cancelled_total"))
            release.wait(0.03)
            return step(memory, ids)

        lane.decoder.step = slow_step  # type: ignore[method-assign]
        try:
            connection = HTTPConnection("127.0.0.1", server.port)
            asked = '{"model": "tiny", "prompt": "A", "max_tokens": 100, "stream": true}'
            head = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", asked, head)
            connection.getresponse().read(50)
            wait_until(lambda: len(steps) >= 3)
            before = len(steps)
            connection.sock.close() if connection.sock else connection.close()
            connection.close()
            wait_until(lambda: metrics.total("cancelled_total") == 1)
            assert len(steps) - before <= 2  # the token under way when it left, and the next
            wait_until(lambda: engine.num_active == 0)
        finally:
            del lane.decoder.step


def test_an_answer_that_nobody_reads_along_wakes_the_loop_once(chat_model: ChatModel) -> None:
    """So that a crowd of waiting clients does not slow the thread that generates for them."""
    with running([chat_model]) as server:
        given: list[Job] = []
        asked = {"model": "tiny", "prompt": "A", "max_tokens": 30, "temperature": 0}
        hand_over = engine_module._hand_over

        def counted(pieces: list[tuple[Job, Piece]]) -> None:
            given.extend(job for job, _ in pieces)
            hand_over(pieces)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "_hand_over", counted)
            whole = server.ask("/v1/completions", asked)[1]
            assert len(given) == 1
            streamed = server.ask("/v1/completions", {**asked, "stream": True})[1]
        assert len(given) > 5
    assert whole["usage"]["completion_tokens"] > 5
    pieces = [json.loads(row[6:]) for row in streamed.split("\n\n")[:-2]]
    assert "".join(p["choices"][0]["text"] for p in pieces) == whole["choices"][0]["text"]


def test_many_long_prompts_do_not_hold_up_an_answer_under_way(chat_model: ChatModel) -> None:
    lane = Lane(chat_model, Limits(), Metrics())
    loop = asyncio.new_event_loop()

    def job(num_tokens: int) -> Job:
        return Job("tiny", Request([1] * num_tokens, 20), chat_model.text_stream(), loop)

    lane.turn([job(100) for _ in range(20)])  # nobody waits: 2,000 tokens in one pass
    assert len(lane.jobs) == 20
    lane.turn([job(100) for _ in range(20)])  # 512 tokens a pass, between two tokens of the others
    assert len(lane.jobs) == 25
    for _ in range(3):
        lane.turn([])
    assert len(lane.jobs) == 40
    loop.close()


def test_a_full_queue_is_told_when_to_come_again(chat_model: ChatModel) -> None:
    with running([chat_model], Limits(max_rows=1, max_waiting=1)) as server:
        asked = {"model": "tiny", "prompt": "A", "max_tokens": 100, "seed": 1}
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.ask("/v1/completions", asked), range(12)))
        statuses = [status for status, _, _ in answers]
        assert set(statuses) == {200, 503}
        refused = next(answer for answer in answers if answer[0] == 503)
        assert refused[2].getheader("retry-after") == "2"
        assert refused[1]["error"]["code"] == "busy"


def test_a_key_is_asked_for_everywhere_but_on_the_page(chat_model: ChatModel) -> None:
    with running([chat_model], guard=Guard(api_key=KEY)) as server:
        right = {"authorization": f"Bearer {KEY}"}
        for path in ("/v1/models", "/metrics"):
            assert server.ask(path)[0] == 401
            assert server.ask(path, headers={"authorization": "Bearer wrong"})[0] == 401
            assert server.ask(path, headers={"authorization": f"Basic {KEY}"})[0] == 401
            assert server.ask(path, headers=right)[0] == 200
        assert server.ask("/")[0] == server.ask("/health")[0] == 200
        with pytest.raises(openai.AuthenticationError):
            OpenAI(base_url=f"{server.url}/v1", api_key="no", max_retries=0).models.list()
        assert OpenAI(base_url=f"{server.url}/v1", api_key=KEY).models.list().data


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/health", {"host": "evil.example"}, 403, "host-not-allowed"),
        ("/health", {"host": "127.0.0.1.evil.example:80"}, 403, "host-not-allowed"),
        ("/health", {"host": "localhost@evil.example"}, 403, "host-not-allowed"),
        ("/health", {"host": "127.0.0.1:1", "origin": "null"}, 403, "origin-not-allowed"),
        ("/health", {"origin": "http://evil.example"}, 403, "origin-not-allowed"),
        ("/health", {"host": "localhost:8", "origin": "http://localhost:8"}, 200, ""),
        ("/health", {"host": "[::1]:8000"}, 200, ""),
        ("/../etc/passwd", {}, 404, "path"),
        ("/%2e%2e/%2e%2e/etc/passwd", {}, 404, "path"),
        ("/page/../page.js", {}, 404, "path"),
    ],
)
def test_other_sites_and_other_paths_are_refused(
    server: Running, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    got, answer, _ = server.ask(path, headers=headers)
    assert got == status
    assert code in ("", answer.get("error", {}).get("code"))


def test_health_and_metrics_say_what_happened(chat_model: ChatModel) -> None:
    with running([chat_model]) as server:
        server.ask("/v1/completions", {"model": "tiny", "prompt": "A", "max_tokens": 3, "seed": 3})
        server.ask("/v1/completions", {"model": "tiny", "prompt": 3})
        server.ask("/nowhere")
        assert server.ask("/health")[1]["models"] == {"tiny": "as loaded"}
        text = server.ask("/metrics")[1]
        assert 'ttl_requests_total{path="/v1/completions",status="200"} 1' in text
        assert 'ttl_requests_total{path="/v1/completions",status="400"} 1' in text
        assert 'ttl_requests_total{path="other",status="404"} 1' in text
        assert "\nttl_first_token_seconds_count 1\n" in text
        assert "\nttl_active_requests 0\n" in text


def test_stopping_waits_for_answers_under_way(chat_model: ChatModel) -> None:
    with ThreadPoolExecutor(1) as pool:
        with running([chat_model]) as server:
            asked = {"model": "tiny", "prompt": "A", "max_tokens": 120, "seed": 1}
            answer = pool.submit(server.ask, "/v1/completions", asked)
            wait_until(lambda: server.app.engine.num_active == 1)
        assert answer.result()[0] == 200


def test_a_model_that_computes_nan_is_named_and_the_server_lives(
    chat_model: ChatModel, server: Running
) -> None:
    broken, whole = chat_model.decoder.norm.clone(), chat_model.decoder.norm
    asked = {"model": "tiny", "prompt": "A", "max_tokens": 3}
    chat_model.decoder.norm = broken * float("nan")
    try:
        status, answer, _ = server.ask("/v1/completions", asked)
        streamed = server.ask("/v1/completions", {**asked, "stream": True})
    finally:
        chat_model.decoder.norm = whole
    assert (status, answer["error"]["code"]) == (500, "model-not-finite")
    assert '"code":"model-not-finite"' in streamed[1]
    assert server.ask("/v1/completions", asked)[0] == 200
