"""Random bad requests: JSON that is nearly right, and bytes that are not HTTP."""

from __future__ import annotations

import json
import random
from typing import Any

RIGHT_CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Olá"}],
    "max_tokens": 2,
    "temperature": 0,
}
RIGHT_COMPLETION = {"model": "tiny", "prompt": "A", "max_tokens": 2, "temperature": 0}

WRONG_VALUES: tuple[Any, ...] = (
    *(-1, 0, 10**9, 10**30, -(10**30), 1.5, -0.0001, 1e308, True, False, "", "5", "NaN", []),
    *({}, [[]], [None], {"a": 1}, "\x00", "\ud800", "😀" * 50, ["a"] * 100, "x" * 5000, [1, "a"]),
    [{"role": "user", "content": "a"}] * 70,
    [{"role": "tool", "content": "a"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}],
    [{"role": "assistant", "content": "a"}],
    [{"role": "user", "content": "a\udfff"}],
    [{"role": "user", "content": "palavra " * 500}],
)
NAMES = (
    *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature"),
    *("top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop", "stream", "stream_options"),
    *("n", "best_of", "logprobs", "top_logprobs", "logit_bias", "tools", "functions", "echo"),
    *("response_format", "presence_penalty", "frequency_penalty", "metadata", "user", "suffix"),
    *("temprature", "__proto__", "", "grammar", "ç" * 40, "a\nb: c", "\udc00"),
)
BODIES = (
    *(b"", b"{", b"null", b"[]", b"3", b'"a"', b"{}", b"\xff\xfe{}", b'{"a":NaN}', b'{"a":1e999}'),
    b'{"model": "tiny", "messages": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"model": "tiny", "prompt": "A", "max_tokens": ' + b"9" * 5000 + b"}",
    b"x" * 300_000,
    b'{"model":"tiny","prompt":"A"} {"model":"tiny"}',
)
HEADS: tuple[tuple[bytes, ...], ...] = (
    (b"content-type: text/plain",),
    (b"content-type: application/json", b"content-encoding: gzip"),
    (b"content-type: application/json", b"content-type: application/json"),
    (b"origin: http://evil.example",),
    (b"content-type: application/json", b"expect: 100-continue"),
)


def bad_json(rng: random.Random) -> tuple[str, bytes]:
    """A path and a body that must not get a 200, unless it is right by chance."""
    if rng.random() < 0.15:
        return rng.choice(("/v1/chat/completions", "/v1/completions")), rng.choice(BODIES)
    is_chat = rng.random() < 0.5
    value: dict[str, Any] = dict(RIGHT_CHAT if is_chat else RIGHT_COMPLETION)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(NAMES)
        if rng.random() < 0.1:
            value.pop(name, None)
        else:
            value[name] = rng.choice(WRONG_VALUES)
    body = json.dumps(value).encode()
    if rng.random() < 0.15:
        at = rng.randrange(len(body))
        body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    return ("/v1/chat/completions" if is_chat else "/v1/completions"), body


def bad_bytes(rng: random.Random, host: bytes) -> bytes:
    """A malformed request as bytes, complete enough to be answered at once."""
    path, body = bad_json(rng)
    rows = [b"POST " + path.encode() + b" HTTP/1.1", b"host: " + host, b"connection: close"]
    rows += rng.choice(HEADS)
    rows.append(b"content-length: %d" % len(body))
    whole = b"\r\n".join(rows) + b"\r\n\r\n" + body
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randint(1, 300)) + b"\r\n\r\n"
    if kind == 1:
        at = rng.randrange(min(80, len(whole)))
        return whole[:at] + rng.randbytes(3) + whole[at + 3 :] + b"\r\n\r\n"
    if kind == 2:
        return b"GET /" + b"a" * rng.randint(1, 90_000) + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    if kind == 3:
        many = b"".join(b"x-%d: y\r\n" % i for i in range(5000))
        return b"GET / HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n"
    if kind == 4:
        size = rng.choice((b"-1", b"1e9", b"99999999999999999999", b"0x10", b"5, 6", b""))
        return whole.replace(b"content-length: %d" % len(body), b"content-length: " + size)
    if kind == 5:
        method = rng.choice((b"PUT", b"DELETE", b"TRACE", b"OPTIONS", b"CONNECT", b"HEAD", b"PRI"))
        return method + whole[4:]
    if kind == 6:
        chunked = whole.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
        return chunked + b"zz\r\n"
    return whole
