"""Whatever is sent: a refusal that names the field, never a 500, and the next one is served."""

from __future__ import annotations

import json
import random
import socket
import time
from typing import Any

import pytest
from support.bad_requests import RIGHT_CHAT, RIGHT_COMPLETION, bad_bytes, bad_json
from support.running_server import Running, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.limits import Limits

USER = {"role": "user", "content": "Olá"}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"max_tokens": -1}, "max_tokens", "max_tokens = -1, expected 1 to"),
        ({"max_tokens": 0}, "max_tokens", "expected 1 to"),
        ({"max_tokens": 10**9}, "max_tokens", "the model's context is 128: at most"),
        ({"max_tokens": "5"}, "max_tokens", "expected a whole number"),
        ({"max_tokens": True}, "max_tokens", "expected a whole number"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "expected a whole number"),
        ({"temperature": -0.1}, "temperature", "expected 0 to 2"),
        ({"temperature": 1e9}, "temperature", "expected 0 to 2"),
        ({"temperature": "warm"}, "temperature", "expected a number"),
        ({"top_p": 0}, "top_p", "above 0, at most 1"),
        ({"top_k": 1.5}, "top_k", "expected a whole number"),
        ({"seed": 1.5}, "seed", "expected a whole number"),
        ({"stop": [""]}, "stop[0]", "empty"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": 3}, "stop", "expected text"),
        ({"stream": "yes"}, "stream", "expected true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only for stream"),
        ({"stream": True, "stream_options": {"usage": 1}}, "'usage'", "unknown"),
        ({"logprobs": True}, "logprobs", "not supported here; leave it out"),
        ({"n": 2}, "n", "not supported"),
        ({"n": True}, "n", "not supported"),
        ({"tools": [{}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"temprature": 1}, "'temprature'", 'did you mean "temperature"?'),
        ({"model": "gpt-5"}, "model", "this server has: tiny"),
        ({"model": 3}, "model", "expected text"),
        ({"messages": []}, "messages", "expected a list of messages"),
        ({"messages": None}, "messages", "missing"),
        ({"messages": [USER] * 65}, "messages", "65 messages, at most 64"),
        ({"messages": ["Olá"]}, "messages[0]", "expected an object"),
        ({"messages": [{**USER, "content": None}]}, "messages[0].content", "missing"),
        ({"messages": [{**USER, "content": " "}]}, "messages[0]", "empty user message"),
        ({"messages": [{**USER, "role": "tool"}]}, "messages[0].role", "expected system"),
        ({"messages": [{**USER, "image": 1}]}, "messages[0].'image'", "unknown"),
        ({"messages": [USER, USER]}, "messages[1]", "user after user"),
        ({"messages": [{**USER, "content": "a\ud83d"}]}, "messages[0].content", "surrogate"),
        ({"messages": [{**USER, "content": "lua " * 500}]}, "messages", "the model's context is"),
        ({"messages": [USER, {**USER, "role": "assistant"}]}, "messages[1]", "nothing to answer"),
        ({"metadata": [1]}, "metadata", "no object"),
    ],
)
def test_every_wrong_field_is_named(
    server: Running, change: dict[str, Any], field: str, words: str
) -> None:
    status, answer, _ = server.ask("/v1/chat/completions", {**RIGHT_CHAT, **change})
    is_missing = words.startswith("this server has")
    assert (status, answer["error"]["param"]) == (404 if is_missing else 400, field)
    assert words in answer["error"]["message"]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (None, "prompt is missing"),
        (["a", "b"], "one text in a list"),
        ([1, -2], "outside the vocabulary"),
        ([1, 10**6], "outside the vocabulary"),
        ([], "one text in a list"),
        ({"text": "a"}, "expected text"),
    ],
)
def test_a_completion_takes_one_prompt(server: Running, prompt: Any, words: str) -> None:
    status, answer, _ = server.ask("/v1/completions", {**RIGHT_COMPLETION, "prompt": prompt})
    assert (status, answer["error"]["param"]) == (400, "prompt")
    assert words in answer["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"content-type": "text/plain"}, b"{}", 415, "content-type"),
        ({"content-encoding": "gzip"}, b"{}", 415, "content-encoding"),
        ({}, b"", 400, "json"),
        ({}, b"\xff", 400, "json"),
        ({}, b'{"model": NaN}', 400, "json"),
        ({}, b"[" * 100_000, 400, "json"),
        ({}, b"x" * 300_000, 413, "body-too-large"),
        ({"transfer-encoding": "chunked"}, b"40000\r\n" + b"x" * 262_144, 413, "body-too-large"),
    ],
)
def test_bodies_that_are_no_json_object_are_refused(
    server: Running, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    if "transfer-encoding" in headers:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
        head += b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = server.raw(head + body + b"\r\n1\r\nx\r\n0\r\n\r\n", wait_s=1)
        assert answer.startswith(b"HTTP/1.1 413 ") and code.encode() in answer
        return
    kinds = {"content-type": "application/json", **headers}
    got, answer, _ = server.ask("/v1/completions", body=body, headers=kinds)
    assert (got, answer["error"]["code"]) == (status, code)


def test_nul_and_emoji_pass_through_as_utf8(server: Running) -> None:
    asked = {**RIGHT_COMPLETION, "prompt": "a\x00b 🦊 \u202e", "max_tokens": 40, "temperature": 2}
    status, text, _ = server.ask("/v1/completions", {**asked, "stream": True, "seed": 3})
    assert status == 200 and "\ud83e" not in text
    assert text.endswith("data: [DONE]\n\n")


def test_a_few_hundred_bad_bodies_are_each_refused_with_their_field(server: Running) -> None:
    rng = random.Random(17)
    refused = 0
    for _ in range(300):
        path, body = bad_json(rng)
        status, answer, _ = server.ask(path, body=body)
        assert status < 500, (status, body[:300], answer)
        if status != 200:
            refused += 1
            assert answer["error"]["param"], (body[:300], answer)
            assert answer["error"]["code"] != "bug"
    assert refused > 250
    assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200


def test_bytes_that_are_not_http_get_an_answer_or_a_closed_door(server: Running) -> None:
    rng = random.Random(18)
    for _ in range(150):
        sent = bad_bytes(rng, b"127.0.0.1:%d" % server.port)
        answer = server.raw(sent, wait_s=0.3)
        assert not answer.startswith(b"HTTP/1.1 5"), (sent[:200], answer[:300])
    assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200


def test_slow_heads_and_bodies_are_told_and_do_not_hinder_others(chat_model: ChatModel) -> None:
    limits = Limits(header_timeout_s=0.4, body_timeout_s=0.4)
    with running([chat_model], limits) as server:
        plugs = []
        for number in range(60):
            plug = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            if number % 2:
                plug.sendall(b"GET / HT")
            else:
                plug.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
                    b"content-type: application/json\r\ncontent-length: 50\r\n\r\n{"
                )
            plugs.append(plug)
        started_at = time.monotonic()
        assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200
        assert time.monotonic() - started_at < 2
        for plug in plugs:
            answer = plug.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            plug.close()


def test_idle_connections_make_space_for_new_ones(chat_model: ChatModel) -> None:
    with running([chat_model], Limits(max_connections=8)) as server:
        plugs = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200
        assert plugs[0].recv(4096).startswith(b"HTTP/1.1 503 ")
        for plug in plugs:
            plug.close()


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_a_head_of_many_lines_is_refused_before_it_is_taken_apart(
    server: Running, line_end: bytes
) -> None:
    small = [b"GET /health HTTP/1.1", b"host: localhost", b"connection: close"]
    for num_lines, status in ((90, b"200"), (4000, b"431")):
        rows = [*small, *(b"x-%d: y" % number for number in range(num_lines)), b"", b""]
        answer = server.raw(line_end.join(rows), wait_s=3)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert b'"param":"head"' in answer
    # A second request behind a first one is looked at in the same way.
    first = line_end.join([*small[:2], b"", b""])
    assert b"HTTP/1.1 431 " in server.raw(first + line_end.join(rows), wait_s=3)


def test_lines_of_a_body_are_not_lines_of_its_head(server: Running) -> None:
    body = json.dumps(RIGHT_COMPLETION, indent=0).encode().replace(b"\n", b"\n" * 200)
    assert server.ask("/v1/completions", body=body)[0] == 200


def test_a_long_prompt_is_read_beside_the_loop_and_refused_with_its_counts(
    server: Running,
) -> None:
    for prompt in ("lua " * 20_000, "a\ud800" + "b" * 20_000):
        status, answer, _ = server.ask("/v1/completions", {**RIGHT_COMPLETION, "prompt": prompt})
        assert (status, answer["error"]["param"]) == (400, "prompt")
    assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200


def test_refusals_have_no_line_that_a_sender_could_forge(server: Running) -> None:
    name = "a\r\nset-cookie: x"
    status, answer, response = server.ask("/v1/completions", {**RIGHT_COMPLETION, name: 1})
    assert status == 400 and response.getheader("set-cookie") is None
    assert "\\r\\n" in answer["error"]["message"]
    assert json.dumps(answer).isascii()
