"""Completions: several choices of one prompt, several prompts, whole and streamed."""

from __future__ import annotations

import json
import socket
from collections import defaultdict

import pytest
from openai import OpenAI
from support.running_server import RunningServer, wait_until

BODY = {"model": "tiny", "max_tokens": 8, "temperature": 1.5, "seed": 5}
HELLO = [{"role": "user", "content": "Olá"}]


@pytest.fixture
def client(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_choices_of_one_prompt_differ_and_count_the_prompt_once(client: OpenAI) -> None:
    one = client.chat.completions.create(messages=HELLO, **BODY)
    three = client.chat.completions.create(messages=HELLO, n=3, **BODY)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert texts[0] == one.choices[0].message.content and len(set(texts)) == 3
    assert one.usage and three.usage
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens > one.usage.completion_tokens


def test_a_stream_of_several_choices_has_the_same_texts(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=HELLO, n=3, **BODY)
    texts: dict[int, str] = defaultdict(str)
    reasons: dict[int, str] = {}
    for event in client.chat.completions.create(messages=HELLO, n=3, stream=True, **BODY):
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert texts == {one.index: one.message.content for one in whole.choices}
    assert reasons == {one.index: one.finish_reason for one in whole.choices}


def test_each_of_several_prompts_has_its_choices(client: OpenAI) -> None:
    body = {**BODY, "temperature": 0}
    prompts = ["A raposa mora", "O rei"]
    alone = [client.completions.create(prompt=one, **body) for one in prompts]
    both = client.completions.create(prompt=prompts, n=2, **body)
    texts = [one.choices[0].text for one in alone]
    assert [choice.text for choice in both.choices] == [texts[0]] * 2 + [texts[1]] * 2
    assert both.usage and alone[0].usage and alone[1].usage
    assert both.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone if one.usage)
    assert both.usage.completion_tokens == 2 * sum(
        one.usage.completion_tokens for one in alone if one.usage
    )


def test_a_client_that_leaves_cancels_every_choice(server: RunningServer) -> None:
    before = server.app.metrics.total("cancelled_total")
    body = {"model": "tiny", "prompt": "A", "max_tokens": 120, "n": 8, "seed": 1, "stream": True}
    data = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
    head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plug:
        plug.sendall(head + data)
        received = b""
        while b'"text":' not in received:  # then all choices are being generated
            received += plug.recv(4096)
    scheduler, metrics = server.app.scheduler, server.app.metrics
    wait_until(lambda: scheduler.num_active == 0 and metrics.total("cancelled_total") > before)
