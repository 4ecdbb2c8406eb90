"""The access guard: other sites are refused, and the key where one is set."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI
from support.running_server import RunningServer, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.access_guard import AccessGuard

KEY = "chave-com-mais-de-dezesseis"


def test_all_but_page_and_health_need_the_key(chat_model: ChatModel) -> None:
    with running([chat_model], guard=AccessGuard(api_key=KEY)) as server:
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
    server: RunningServer, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    got, answer, _ = server.ask(path, headers=headers)
    assert got == status
    assert code in ("", answer.get("error", {}).get("code"))
