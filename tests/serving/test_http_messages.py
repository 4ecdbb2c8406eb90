"""Bodies and responses: JSON, limits, UTF-8, no injected headers."""

from __future__ import annotations

import json

import pytest
from support.bad_requests import RIGHT_COMPLETION
from support.running_server import RunningServer


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
def test_bodies_that_are_not_json_objects_are_errors(
    server: RunningServer, headers: dict[str, str], body: bytes, status: int, code: str
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


def test_nul_and_emoji_are_sent_as_utf8(server: RunningServer) -> None:
    body = {**RIGHT_COMPLETION, "prompt": "a\x00b 🦊 \u202e", "max_tokens": 40, "temperature": 2}
    status, text, _ = server.ask("/v1/completions", {**body, "stream": True, "seed": 3})
    assert status == 200 and "\ud83e" not in text
    assert text.endswith("data: [DONE]\n\n")


def test_an_error_cannot_inject_a_header(server: RunningServer) -> None:
    name = "a\r\nset-cookie: x"
    status, answer, response = server.ask("/v1/completions", {**RIGHT_COMPLETION, name: 1})
    assert status == 400 and response.getheader("set-cookie") is None
    assert "\\r\\n" in answer["error"]["message"]
    assert json.dumps(answer).isascii()
