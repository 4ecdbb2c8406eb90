"""The server's counters, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServerMetrics:
    """Counters that the event loop and the generating threads add to."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens read.")
        self.generated_tokens = self._counter(
            "generated_tokens", "Tokens generated, those of cancelled answers too."
        )
        self.cancelled = self._counter("cancelled", "Answers cancelled because the client left.")
        self.active_requests = Gauge(
            "ttl_active_requests", "Answers being generated.", registry=self.registry
        )
        self.waiting_requests = Gauge(
            "ttl_waiting_requests", "Requests in the queue.", registry=self.registry
        )
        self.first_token = self._histogram(
            "first_token", "Time from a request's arrival to its first token."
        )
        self._requests = self._counter(
            "requests", "Requests answered, by path and status.", ("path", "status")
        )
        self._request = self._histogram(
            "request", "Time from a request's head to the end of its answer."
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"ttl_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"ttl_{name}_seconds", text, buckets=BUCKETS_S, registry=self.registry)

    def total(self, name: str) -> int:
        """A counter's value."""
        return int(self.registry.get_sample_value(f"ttl_{name}") or 0)

    def observe_request(self, path: str, status: int, duration_s: float) -> None:
        """One request; `path` is a known one or "other", so that clients cannot add lines."""
        self._requests.labels(path, str(status)).inc()
        self._request.observe(duration_s)

    def as_text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
