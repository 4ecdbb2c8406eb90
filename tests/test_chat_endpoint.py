"""What an endpoint that misbehaves becomes: an answer, or one line with what to do."""

from __future__ import annotations

import socket
import time

import pytest
from support.fake_endpoint import answer, endpoint, error

from teenytinyllama import chat_endpoint
from teenytinyllama.chat_endpoint import ChatEndpoint
from teenytinyllama.errors import UserError

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_endpoint, "MAX_RETRIES", 1)


def ask(url: str, timeout_s: float = 10.0):
    client = ChatEndpoint(url, "grande", key_variable="TTL_TEST_KEY", timeout_s=timeout_s)
    return client.ask("Oi", max_tokens=5, temperature=0.0, seed=1)


def test_an_answer_has_its_text_its_model_and_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTL_TEST_KEY", "segredo")
    with endpoint(lambda *_: answer("Olá", "grande-2")) as (url, asked):
        found = ask(url)
    assert (found.text, found.model, found.prompt_tokens) == ("Olá", "grande-2", 100)
    assert (asked[0]["model"], asked[0]["temperature"], asked[0]["seed"]) == ("grande", 0.0, 1)


@pytest.mark.parametrize(
    ("reply", "code", "says"),
    [
        (error(401), "endpoint-key", "export TTL_TEST_KEY"),
        (error(402), "endpoint-no-money", "add credit"),
        (error(429, "insufficient_quota", retry_after="0.01"), "endpoint-no-money", "add credit"),
        (error(429, retry_after="0.01"), "endpoint-busy", "fewer --workers"),
        (error(404), "endpoint-model", "/v1/models"),
        (error(500, retry_after="0.01"), "endpoint-refused", "the same line goes on"),
        (error(400, "too long\nfor me"), "endpoint-refused", "too long for me"),
    ],
)
def test_a_refusal_is_one_line(reply, code: str, says: str) -> None:
    with endpoint(lambda *_: reply) as (url, _), pytest.raises(UserError) as caught:
        ask(url)
    assert caught.value.code == code
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_busy_endpoint_is_asked_again_after_the_time_it_names() -> None:
    replies = [error(429, retry_after="0.3"), answer("Olá")]
    started = time.monotonic()
    with endpoint(lambda number, _: replies[number]) as (url, asked):
        assert ask(url).text == "Olá"
    assert len(asked) == 2 and time.monotonic() - started >= 0.3


def test_nobody_there_and_no_answer_are_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="endpoint-down"):
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    with (
        endpoint(lambda *_: (time.sleep(0.5), answer("Olá"))[1]) as (url, _),
        pytest.raises(UserError, match="endpoint-slow"),
    ):
        ask(url, timeout_s=0.1)


def test_a_body_that_breaks_off_is_one_line() -> None:
    status, _, body = answer("Olá")
    broken = (status, {"content-length": str(len(body) + 50), "connection": "close"}, body)
    with endpoint(lambda *_: broken) as (url, _), pytest.raises(UserError, match="endpoint-"):
        ask(url, timeout_s=0.3)


@pytest.mark.parametrize(
    "reply",
    [
        (200, {}, b"not JSON"),
        (200, {"content-type": "text/html"}, b"<html>Bem-vindo</html>"),
        (200, {}, b"[]"),
        (200, {}, b"null"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": null}'),
        (200, {}, b'{"choices": [{"message": null}]}'),
        answer(None),
        answer({"a": 1}),
        answer(["a"]),
    ],
)
def test_what_is_no_answer_is_an_empty_one(reply) -> None:
    with endpoint(lambda *_: reply) as (url, _):
        assert ask(url).text == ""


def test_an_address_without_a_scheme_says_how_one_looks() -> None:
    with pytest.raises(UserError, match=r"no address.*http://127\.0\.0\.1:8000/v1"):
        ask("localhost:8000")
