"""Whatever a request asks for, its answer is no 500 and no other client's text changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from support.random_requests import random_requests
from support.running_server import RunningServer

GOOD = {"model": "tiny", "prompt": "A raposa mora", "max_tokens": 6, "temperature": 0}


def good_text(server: RunningServer) -> str:
    status, answer, _ = server.ask("/v1/completions", GOOD)
    return str(answer["choices"][0]["text"]) if status == 200 else f"{status} {answer}"


@pytest.fixture(scope="module")
def expected(server: RunningServer) -> str:
    return good_text(server)


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(sent=random_requests("tiny"))
def test_a_random_request_gets_no_500_and_changes_no_other_text(
    server: RunningServer, expected: str, sent: tuple[str, bytes]
) -> None:
    path, body = sent
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(good_text, server)
        status, answer, _ = server.ask(path, body=body)
        assert beside.result() == expected
    assert status < 500, answer
    if status >= 400:
        assert answer["error"]["param"] or answer["error"]["code"] == "no-chat-data", answer
    if isinstance(answer, str):  # a stream
        assert '"error"' not in answer and answer.endswith("data: [DONE]\n\n"), answer
