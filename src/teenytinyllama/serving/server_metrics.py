"""The server's counters, in Prometheus' text format."""

from __future__ import annotations

import threading
import time
from collections import Counter

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HELP = {
    "prompt_tokens_total": "Prompt tokens read.",
    "generated_tokens_total": "Tokens generated, those of cancelled answers too.",
    "cancelled_total": "Answers cancelled because the client left.",
}


class Histogram:
    """Counts durations in BUCKETS_S."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        index = next((i for i, top in enumerate(BUCKETS_S) if duration_s <= top), -1)
        self.counts[index] += 1
        self.sum_s += duration_s

    def lines(self, name: str) -> list[str]:
        """Cumulative buckets, sum and count."""
        rows, total = [], 0
        for top, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            rows.append(f'{name}_bucket{{le="{top}"}} {total}')
        return [*rows, f"{name}_sum {self.sum_s:.6f}", f"{name}_count {total}"]


class ServerMetrics:
    """Counters that the event loop and the generating threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter(dict.fromkeys(HELP, 0))
        self._requests: Counter[tuple[str, int]] = Counter()
        self._first_token, self._request = Histogram(), Histogram()
        self._started_at = time.time()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to one of the counters in HELP."""
        with self._lock:
            self._totals[name] += amount

    def total(self, name: str) -> int:
        """A counter's value."""
        return self._totals[name]

    def observe_first_token(self, duration_s: float) -> None:
        """Time from a request's arrival to its first token."""
        with self._lock:
            self._first_token.observe(duration_s)

    def observe_request(self, path: str, status: int, duration_s: float) -> None:
        """One request; `path` is a known one or "other", so that clients cannot add lines."""
        with self._lock:
            self._requests[path, status] += 1
            self._request.observe(duration_s)

    def as_text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """All counters and the given gauges, name to (help, value)."""
        rows: list[str] = []

        def head(name: str, text: str, kind: str) -> str:
            full = f"ttl_{name}"
            rows.extend((f"# HELP {full} {text}", f"# TYPE {full} {kind}"))
            return full

        with self._lock:
            full = head("requests_total", "Requests answered, by path and status.", "counter")
            for (path, status), count in sorted(self._requests.items()):
                rows.append(f'{full}{{path="{path}",status="{status}"}} {count}')
            for name, text in HELP.items():
                rows.append(f"{head(name, text, 'counter')} {self._totals[name]}")
            text = "Time from a request's arrival to its first token."
            rows += self._first_token.lines(head("first_token_seconds", text, "histogram"))
            text = "Time from a request's head to the end of its answer."
            rows += self._request.lines(head("request_seconds", text, "histogram"))
        for name, (text, value) in gauges.items():
            rows.append(f"{head(name, text, 'gauge')} {value:g}")
        rows.append(
            f"{head('start_time_seconds', 'When the server started.', 'gauge')} "
            f"{self._started_at:.3f}"
        )
        return "\n".join(rows) + "\n"
