"""The access guard: other sites are refused, and the key where one is set."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI
from support.running_server import RunningServer, running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.access_guard import AccessGuard

# Other addresses, other notations of this machine's own, and what is no host at all.
OTHER_HOSTS = (
    *("192.168.1.77", "0.0.0.0", "[::]", "8.8.8.8:80", "[2001:db8::1]:80", "[::ffff:8.8.8.8]"),
    *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1.", "127.0.0.1.:80"),
    *("localhost.", "localhost:80:80", "localhost:x", "localhost:99999", "localhost:-1"),
    *("::1", "[127.0.0.1]", "[::1", "[::1]x", "127.0.0.1%00", "localhost x", "x@localhost", ""),
    *("localhost.evil.example", "127.0.0.1.nip.io", "localhost\\.evil.example"),
)
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
        assert server.ask("/health")[1] == {"status": "ok", "needs_key": True}
        assert server.ask("/health", headers=right)[1]["models"] == {"tiny": "as loaded"}
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
        ("/health", {"host": "[::ffff:127.0.0.1]"}, 200, ""),
        ("/health", {"host": "127.4.5.6:99"}, 200, ""),
        *(("/health", {"host": host}, 403, "host-not-allowed") for host in OTHER_HOSTS),
        ("/v1/models/a", {"host": "192.168.1.77"}, 403, "host-not-allowed"),
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
