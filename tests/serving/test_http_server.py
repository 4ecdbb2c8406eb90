"""Connections: malformed HTTP, slow clients, too many connections, too large heads."""

from __future__ import annotations

import json
import random
import socket
import time

import pytest
from support.bad_requests import RIGHT_COMPLETION, bad_bytes
from support.running_server import RunningServer, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.limits import Limits


def test_malformed_http_gets_a_response_or_a_closed_connection(server: RunningServer) -> None:
    rng = random.Random(18)
    for _ in range(150):
        sent = bad_bytes(rng, b"127.0.0.1:%d" % server.port)
        answer = server.raw(sent, wait_s=0.3)
        assert not answer.startswith(b"HTTP/1.1 5"), (sent[:200], answer[:300])
    assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200


def test_slow_heads_and_bodies_get_408_and_block_nobody(chat_model: ChatModel) -> None:
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


def test_idle_connections_are_closed_for_new_ones(chat_model: ChatModel) -> None:
    with running([chat_model], Limits(max_connections=8)) as server:
        plugs = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200
        assert plugs[0].recv(4096).startswith(b"HTTP/1.1 503 ")
        for plug in plugs:
            plug.close()


def half_sent(port: int) -> socket.socket:
    """A connection whose body never comes."""
    plug = socket.create_connection(("127.0.0.1", port), timeout=5)
    plug.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: 50\r\n\r\n{"
    )
    return plug


def test_half_sent_bodies_shut_out_nobody(chat_model: ChatModel) -> None:
    with running([chat_model], Limits(max_connections=8)) as server:
        answering = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        body = json.dumps({**RIGHT_COMPLETION, "max_tokens": 100, "stream": True}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        answering.sendall(head + body)
        answer = answering.recv(64)
        plugs: list[socket.socket] = []
        for _ in range(4):
            plugs += [half_sent(server.port) for _ in range(5)]
            assert server.ask("/v1/completions", RIGHT_COMPLETION)[0] == 200
        assert plugs[0].recv(4096).startswith(b"HTTP/1.1 503 ")
        while part := answering.recv(4096):  # nothing of it was waited for
            answer += part
        assert answer.startswith(b"HTTP/1.1 200 ") and b"[DONE]" in answer
        for plug in (*plugs, answering):
            plug.close()


SMUGGLED = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "rows",
    [
        # Known forms: RFC 9112, section 11.2; CL.TE, TE.CL, TE.TE, CL.CL and hidden headers.
        (b"content-length: 5", b"transfer-encoding: chunked"),
        (b"transfer-encoding: chunked", b"content-length: 5"),
        (b"Content-Length: 5", b"Transfer-Encoding:\r\n chunked"),
        (b"content-length: 5", b"transfer-encoding: Chunked"),
        (b"content-length: 0", b"transfer-encoding:\tchunked"),
        (b"content-length: 5", b"transfer-encoding : chunked"),
        (b"content-length: 5", b" transfer-encoding: chunked"),
        (b"content-length: 5", b"transfer-encoding: xchunked"),
        (b"content-length: 5", b"transfer-encoding: chunked, identity"),
        (b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        (b"transfer-encoding: chunked", b"transfer-encoding: x"),
        (b"transfer-encoding: gzip, chunked",),
        (b"transfer-encoding: \x0bchunked",),
        (b"transfer-encoding: chunked\x00",),
        (b"content-length: 5", b"content-length: 6"),
        (b"content-length: 5, 6",),
        (b"content-length: +5",),
        (b"content-length: -5",),
        (b"content-length: 0x5",),
        (b"content-length: 5 5",),
        (b"content-length: 5\r x: y",),
        (b"x: y\rcontent-length: 5",),
    ],
)
def test_a_body_with_two_ends_smuggles_no_second_request(
    server: RunningServer, rows: tuple[bytes, ...]
) -> None:
    head = [b"POST /v1/completions HTTP/1.1", b"host: localhost", b"content-type: application/json"]
    answer = server.raw(b"\r\n".join([*head, *rows, b"", CHUNKED]) + SMUGGLED, wait_s=3)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer
    assert b"connection: close" in answer


def test_a_body_in_chunks_is_read_and_a_wrong_chunk_ends_the_connection(
    server: RunningServer,
) -> None:
    body = json.dumps(RIGHT_COMPLETION).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
    head += b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    right = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    last = SMUGGLED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    assert server.raw(head + right + last).count(b"HTTP/1.1 200 ") == 2
    for wrong in (b"5\r\nabcdeXX0\r\n\r\n", b"-1\r\n", b"0x5\r\nabcde\r\n", b"f" * 30 + b"\r\n"):
        answer = server.raw(head + wrong + SMUGGLED, wait_s=3)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer
    old = head.replace(b"HTTP/1.1", b"HTTP/1.0") + right + SMUGGLED
    assert server.raw(old, wait_s=3).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_a_head_of_many_lines_gets_431(server: RunningServer, line_end: bytes) -> None:
    small = [b"GET /health HTTP/1.1", b"host: localhost", b"connection: close"]
    for num_lines, status in ((90, b"200"), (4000, b"431")):
        rows = [*small, *(b"x-%d: y" % number for number in range(num_lines)), b"", b""]
        answer = server.raw(line_end.join(rows), wait_s=3)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert b'"param":"head"' in answer
    # The same for a second request sent right behind a first one.
    first = line_end.join([*small[:2], b"", b""])
    assert b"HTTP/1.1 431 " in server.raw(first + line_end.join(rows), wait_s=3)


def test_lines_of_a_body_are_not_lines_of_its_head(server: RunningServer) -> None:
    body = json.dumps(RIGHT_COMPLETION, indent=0).encode().replace(b"\n", b"\n" * 200)
    assert server.ask("/v1/completions", body=body)[0] == 200
