"""Requests: every wrong field is a 400 that names it, and the server lives."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from support.bad_requests import RIGHT_CHAT, RIGHT_COMPLETION, bad_json
from support.running_server import RunningServer

from teenytinyllama.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    read_chat_request,
)

USER = {"role": "user", "content": "Olá"}
SAID = {"role": "assistant", "content": "Oi"}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"max_tokens": -1}, "max_tokens", "max_tokens = -1, expected greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "expected greater than or equal to 1"),
        ({"max_tokens": 10**9}, "max_tokens", "the model's context is 128: at most"),
        ({"max_tokens": "5"}, "max_tokens", "expected a valid integer"),
        ({"max_tokens": True}, "max_tokens", "expected a valid integer"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "expected a valid integer"),
        ({"temperature": -0.1}, "temperature", "expected greater than or equal to 0"),
        ({"temperature": 1e9}, "temperature", "expected less than or equal to 2"),
        ({"temperature": "warm"}, "temperature", "expected a valid number"),
        ({"top_p": 0}, "top_p", "top_p = 0, expected greater than 0"),
        ({"top_k": 1.5}, "top_k", "expected a valid integer"),
        ({"seed": 1.5}, "seed", "expected a valid integer"),
        ({"stop": [""]}, "stop[0]", "expected at least 1 character"),
        ({"stop": ["a"] * 17}, "stop", "expected at most 16 items"),
        ({"stop": 3}, "stop", "expected a valid string"),
        ({"stream": "yes"}, "stream", "expected a valid boolean"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only for stream"),
        ({"stream": True, "stream_options": {"usage": 1}}, "stream_options.usage", "unknown"),
        ({"logprobs": True}, "logprobs", "not supported here; leave it out"),
        ({"n": 65}, "n", "expected less than or equal to 64"),
        ({"n": True}, "n", "expected a valid integer"),
        ({"tools": [{}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"temprature": 1}, "temprature", 'did you mean "temperature"?'),
        ({"model": "gpt-5"}, "model", "this server has: tiny"),
        ({"model": 3}, "model", "expected a valid string"),
        ({"messages": []}, "messages", "expected at least 1 item"),
        ({"messages": None}, "messages", "missing"),
        ({"messages": [USER] * 65}, "messages", "65 messages, at most 64"),
        ({"messages": ["Olá"]}, "messages[0]", "expected a valid dictionary"),
        ({"messages": [{**USER, "content": None}]}, "messages[0].content", "missing"),
        ({"messages": [{**USER, "content": " "}]}, "messages[0]", "empty user message"),
        ({"messages": [{**USER, "role": "tool"}]}, "messages[0].role", "expected 'system'"),
        ({"messages": [{**USER, "image": 1}]}, "messages[0].image", "unknown"),
        ({"messages": [USER, {**USER, "role": "system"}]}, "messages[1]", "not in first place"),
        ({"messages": [USER, USER, SAID, SAID, {**USER, "content": " "}]}, "messages[4]", "empty"),
        ({"messages": [{**SAID, "content": ""}, USER]}, "messages[0]", "assistant after nothing"),
        (
            {"messages": [USER, {**SAID, "tool_calls": [1]}, USER]},
            "messages[1].tool_calls",
            "not",
        ),
        ({"messages": [{"role": "assistant"}, USER]}, "messages[0].content", "missing"),
        ({"audio": {"voice": "x"}}, "audio", "not supported here; leave it out"),
        ({"top_logprobs": 2}, "top_logprobs", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        (
            {"max_completion_tokens": 0},
            "max_completion_tokens",
            "expected greater than or equal to 1",
        ),
        ({"messages": [{**USER, "content": "a\ud83d"}]}, "body", "hex escape"),
        ({"messages": [{**USER, "content": "lua " * 500}]}, "messages", "the model's context is"),
        ({"messages": [USER, {**USER, "role": "assistant"}]}, "messages[1]", "nothing to answer"),
        ({"metadata": [1]}, "metadata", "expected a valid dictionary"),
    ],
)
def test_a_wrong_field_is_named_in_the_error(
    server: RunningServer, change: dict[str, Any], field: str, words: str
) -> None:
    status, answer, _ = server.ask("/v1/chat/completions", {**RIGHT_CHAT, **change})
    is_missing = words.startswith("this server has")
    assert (status, answer["error"]["param"]) == (404 if is_missing else 400, field)
    assert words in answer["error"]["message"]


def prompt_of(server: RunningServer, messages: list[dict[str, Any]]) -> list[int]:
    body = {**RIGHT_CHAT, "messages": messages}
    read = read_chat_request(json.dumps(body).encode(), server.app.chat_models, max_messages=64)
    return list(read.choices[0].sequence.prompt)


def test_an_empty_answer_is_a_turn_and_messages_of_one_role_are_joined(
    server: RunningServer,
) -> None:
    for empty in ("", None, [], [{"type": "text", "text": ""}]):
        silent = {"role": "assistant", "content": empty, "tool_calls": None, "refusal": None}
        whole = [USER, {"role": "assistant", "content": ""}, USER]
        assert prompt_of(server, [USER, silent, USER]) == prompt_of(server, whole)
        assert server.ask("/v1/chat/completions", {**RIGHT_CHAT, "messages": [USER, silent, USER]})[
            0
        ] == (200)
    system, user = {"role": "system"}, {"role": "user"}
    apart = [{**system, "content": "a"}, {"role": "developer", "content": "b"}, USER, USER]
    joined = [{**system, "content": "a\n\nb"}, {**user, "content": "Olá\n\nOlá"}]
    assert prompt_of(server, apart) == prompt_of(server, joined)


def test_a_whole_number_may_be_written_as_a_fraction(server: RunningServer) -> None:
    body = {**RIGHT_COMPLETION, "max_tokens": 2.0, "n": 1.0, "seed": -3.0, "top_k": 1e1}
    status, answer, _ = server.ask("/v1/completions", body)
    assert (status, answer["usage"]["completion_tokens"] <= 2) == (200, True)


def test_null_counts_as_not_given_in_every_field(server: RunningServer) -> None:
    for path, right, known, needed in (
        ("/v1/chat/completions", RIGHT_CHAT, {*ChatRequest.model_fields}, {"model", "messages"}),
        (
            "/v1/completions",
            RIGHT_COMPLETION,
            {*CompletionRequest.model_fields},
            {"model", "prompt"},
        ),
    ):
        # null for a prompt is the beginning of a document
        needed = needed - {"prompt"}
        right = {name: value for name, value in right.items() if name != "prompt"}
        nothing = dict.fromkeys(known - needed - {"max_tokens", "temperature"})
        status, answer, _ = server.ask(path, {**nothing, **right})
        assert status == 200, answer
    user = {**USER, "name": None}
    body = {**RIGHT_CHAT, "messages": [user], "stream": True, "max_tokens": 1}
    for options in (None, {}, {"include_usage": None, "include_obfuscation": None}):
        assert server.ask("/v1/chat/completions", {**body, "stream_options": options})[0] == 200


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (["a", 3], "prompt[1] = 3, expected a valid string"),
        ([1, -2], "outside the vocabulary"),
        ([1, 10**6], "outside the vocabulary"),
        ([], "expected at least 1 item"),
        ([[]], "prompt[0] = [], expected at least 1 item"),
        (["a"] * 65, "65 choices, at most 64"),
        ({"text": "a"}, "expected a valid string"),
    ],
)
def test_a_wrong_prompt_is_named_in_the_error(
    server: RunningServer, prompt: Any, words: str
) -> None:
    status, answer, _ = server.ask("/v1/completions", {**RIGHT_COMPLETION, "prompt": prompt})
    assert status == 400 and answer["error"]["param"].split("[")[0] in ("prompt", "n")
    assert words in answer["error"]["message"]


def test_a_completion_without_a_prompt_is_an_error(server: RunningServer) -> None:
    body = {name: value for name, value in RIGHT_COMPLETION.items() if name != "prompt"}
    status, answer, _ = server.ask("/v1/completions", body)
    assert (status, answer["error"]["message"]) == (400, "prompt is missing")


def test_300_bad_bodies_each_get_an_error_with_the_field(server: RunningServer) -> None:
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


def test_a_long_prompt_is_checked_outside_the_event_loop(
    server: RunningServer,
) -> None:
    for prompt, field in (("lua " * 20_000, "prompt"), ("a\ud800" + "b" * 20_000, "body")):
        status, answer, _ = server.ask("/v1/completions", {**RIGHT_COMPLETION, "prompt": prompt})
        assert (status, answer["error"]["param"]) == (400, field)
    assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200
