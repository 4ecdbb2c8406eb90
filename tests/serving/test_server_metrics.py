"""Counters as Prometheus reads them."""

from __future__ import annotations

from support.running_server import running

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.server_metrics import ServerMetrics


def test_requests_are_counted_by_path_and_status(chat_model: ChatModel) -> None:
    with running([chat_model]) as server:
        server.ask("/v1/completions", {"model": "tiny", "prompt": "A", "max_tokens": 3, "seed": 3})
        server.ask("/v1/completions", {"model": "tiny", "prompt": 3})
        server.ask("/nowhere")
        assert server.ask("/health")[1]["models"] == {"tiny": "as loaded"}
        text = server.ask("/metrics")[1]
        assert 'ttl_requests_total{path="/v1/completions",status="200"} 1' in text
        assert 'ttl_requests_total{path="/v1/completions",status="400"} 1' in text
        assert 'ttl_requests_total{path="other",status="404"} 1' in text
        assert "\nttl_first_token_seconds_count 1.0\n" in text
        assert "\nttl_active_requests 0.0\n" in text


def test_counts_of_two_servers_are_apart() -> None:
    one, other = ServerMetrics(), ServerMetrics()
    one.prompt_tokens.inc(3)
    assert (one.total("prompt_tokens_total"), other.total("prompt_tokens_total")) == (3, 0)
