"""F17: the server under 10,000 bad requests, 20,000 drawn from the whole schema, 200 slow ones, 600
half-sent bodies, 1,000 disconnects and 64 clients; then all its files are emptied.

    python bench/faults/server.py [--requests 10000] [--fuzz 20000] [--slow 200]

A small random model behind `ttl serve` in its own process. Counted: crashes, responses of 500
and above, errors that name no field, growth of memory, greedy texts of 64 clients that differ
from a single client's, also beside the drawn requests, good clients that are shut out, and the
latency of a good client during the attack: the same client sends
requests alone and during the attack in turn, so that other work on the machine affects both. Single
cases are tests in tests/serving/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.bad_requests import bad_bytes, bad_json
from support.random_requests import random_requests

PEER = "llama.cpp and vLLM: published crash and fan-out reports, no such test"
UNDER_ATTACK = "F17 healthy p95 under attack"
NUM_ATTACKERS = 4
TIMEOUT_S = 3
NUM_HALF_SENT = 600  # more than `max_connections`
CHAT_DATA = "conversations.jsonl"
HEAD = {"content-type": "application/json"}


class Server:
    """`ttl serve` as a child process."""

    def __init__(self, run_dir: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "teenytinyllama.cli",
            "serve",
            str(run_dir),
            "--port",
            "0",
        ]
        command += ["--data", str(run_dir / CHAT_DATA)]
        command += [
            "--set",
            f"header_timeout_s={TIMEOUT_S}",
            "--set",
            f"body_timeout_s={TIMEOUT_S}",
        ]
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.child.stderr is not None
        self.log: list[str] = []
        for line in self.child.stderr:
            self.log.append(line)
            if line.startswith("http://"):
                self.port = int(line.split()[0].rpartition(":")[2])
                break
        threading.Thread(
            target=lambda: self.log.extend(self.child.stderr or ()), daemon=True
        ).start()
        self.model = run_dir.name

    def ask(self, prompt: str, max_tokens: int = 8) -> tuple[int, str, float]:
        """Status, text and duration of one good request."""
        started_at = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        connection.request("POST", "/v1/completions", json.dumps(body), HEAD)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        text = answer["choices"][0]["text"] if response.status == 200 else ""
        return response.status, text, time.perf_counter() - started_at

    def metric(self, name: str) -> float:
        """A value from /metrics."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics")
        rows = connection.getresponse().read().decode().splitlines()
        connection.close()
        return float(next(row.split()[-1] for row in rows if row.startswith(f"ttl_{name} ")))

    def rss_mb(self) -> float:
        """Memory now, in MiB."""
        rows = Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
        return int(next(row.split()[1] for row in rows if row.startswith("VmRSS"))) / 1024


def send_bad_json(server: Target, seed: int, num_requests: int) -> dict[str, int]:
    """Bad bodies over kept connections; counts of the responses."""
    rng, counts = random.Random(seed), {"sent": 0, "500": 0, "unnamed": 0}
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(num_requests):
        path, body = bad_json(rng)
        body = body.replace(b'"tiny"', json.dumps(server.model).encode())
        try:
            connection.request("POST", path, body, HEAD)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException):
            connection.close()
            continue
        counts["sent"] += 1
        counts["500"] += response.status >= 500 and response.status != 503
        if 400 <= response.status < 500:
            counts["unnamed"] += json.loads(answer)["error"]["param"] is None
    connection.close()
    return counts


def send_bad_bytes(server: Target, seed: int, num_requests: int) -> dict[str, int]:
    """Malformed HTTP, each on its own connection; counts of the responses."""
    rng, counts = random.Random(seed), {"sent": 0, "500": 0, "unnamed": 0}
    for _ in range(num_requests):
        sent = bad_bytes(rng, b"127.0.0.1:%d" % server.port)
        answer = b""
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=0.06) as plug:
                plug.sendall(sent)
                while part := plug.recv(65536):
                    answer += part
        except OSError:
            pass
        counts["sent"] += 1
        status = answer[9:12].decode("ascii", "replace")
        counts["500"] += status.startswith("5") and status != "503"
        counts["unnamed"] += status.startswith("4") and b'"param":null' in answer
    return counts


def send_drawn(server: Target, number: int, num_requests: int) -> dict[str, int]:
    """Requests drawn from the whole schema, over kept connections; counts of the responses."""
    counts = {"sent": 0, "500": 0, "unnamed": 0, "200": 0}
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)

    @seed(number)
    @settings(
        max_examples=num_requests,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(random_requests(server.model))
    def send(drawn: tuple[str, bytes]) -> None:
        path, body = drawn
        try:
            connection.request("POST", path, body, HEAD)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException):
            connection.close()
            return
        counts["sent"] += 1
        counts["200"] += response.status == 200
        is_stream = response.getheader("content-type", "").startswith("text/event-stream")
        failed = response.status >= 500 and response.status != 503
        counts["500"] += failed or (is_stream and b'"error"' in answer)
        if 400 <= response.status < 500:
            counts["unnamed"] += json.loads(answer)["error"]["param"] is None

    send()
    connection.close()
    return counts


class Target(NamedTuple):
    """The port and model name that attackers need."""

    port: int
    model: str


def attackers() -> ProcessPoolExecutor:
    """Started processes of lower priority: they load the server, and do not take its cores."""
    context = get_context("spawn")
    pool = ProcessPoolExecutor(NUM_ATTACKERS, context, initializer=os.nice, initargs=(5,))
    list(pool.map(time.sleep, [0.5] * NUM_ATTACKERS))
    return pool


def good_latencies(server: Server, continues: Callable[[int], bool]) -> list[float]:
    """Latencies of a client that requests 8 tokens every 50 ms."""
    latencies: list[float] = []
    while continues(len(latencies)):
        status, _, latency_s = server.ask("A raposa")
        assert status == 200
        latencies.append(latency_s)
        time.sleep(0.05)
    return latencies


def attack(
    pool: ProcessPoolExecutor, running: Server, num_requests: int, seed: int
) -> tuple[dict[str, int], list[float]]:
    """Bad requests from all attackers at full speed; counts, and a good client's latencies."""
    server = Target(running.port, running.model)
    share = num_requests // 10
    tasks = [pool.submit(send_bad_json, server, seed + n, share * 7 // 2) for n in (1, 2)]
    tasks += [pool.submit(send_bad_bytes, server, seed + n, share * 3 // 2) for n in (3, 4)]
    latencies = good_latencies(running, lambda _: not all(task.done() for task in tasks))
    counts: dict[str, int] = {}
    for task in tasks:
        for name, number in task.result().items():
            counts[name] = counts.get(name, 0) + number
    return counts, latencies


def fuzz(pool: ProcessPoolExecutor, running: Server, num_requests: int) -> Counter[str]:
    """Drawn requests from all attackers beside a good client; counts, and its changed texts."""
    server = Target(running.port, running.model)
    prompts = [f"A raposa número {i} " * (1 + i % 5) for i in range(8)]
    alone = [running.ask(prompt, 24)[:2] for prompt in prompts]
    share = num_requests // NUM_ATTACKERS
    tasks: list[Future[dict[str, int]]] = [
        pool.submit(send_drawn, server, number, share) for number in range(NUM_ATTACKERS)
    ]
    counts = Counter[str]()
    while not all(task.done() for task in tasks):
        at = counts["beside"] % len(prompts)
        counts["changed"] += running.ask(prompts[at], 24)[:2] != alone[at]
        counts["beside"] += 1
    for task in tasks:
        counts.update(task.result())
    return counts


def shut_out(server: Server) -> int:
    """How many of 40 good requests fail beside more half-sent bodies than connections."""
    plugs = []
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n"
    for _ in range(NUM_HALF_SENT):
        plug = socket.create_connection(("127.0.0.1", server.port), timeout=4 * TIMEOUT_S)
        plug.sendall(head + b"content-type: application/json\r\n\r\n{")
        plugs.append(plug)
    num_failed = 0
    for _ in range(40):
        try:
            num_failed += server.ask("A raposa")[0] != 200
        except (OSError, HTTPException):
            num_failed += 1
    for plug in plugs:
        plug.close()
    return num_failed


def texts_after_a_cut(server: Server, run_dir: Path) -> int:
    """How many of 8 greedy texts change when every file of the run is emptied."""
    prompts = [f"A raposa número {i}" for i in range(8)]
    before = [server.ask(prompt, 24)[:2] for prompt in prompts]
    for path in run_dir.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    try:
        return sum(server.ask(p, 24)[:2] != b for p, b in zip(prompts, before, strict=True))
    except OSError:  # it died
        return len(prompts)


def hold_slowly(server: Server, num_slow: int) -> tuple[int, list[float]]:
    """Requests that are never finished: how many got a 408, and a good client's latencies."""
    plugs = []
    for number in range(num_slow):
        plug = socket.create_connection(("127.0.0.1", server.port), timeout=4 * TIMEOUT_S)
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n"
        whole = head + b"content-type: application/json\r\n\r\n{"
        plug.sendall(b"GET / HT" if number % 2 else whole)
        plugs.append(plug)
    latencies = [server.ask("A raposa")[2] for _ in range(40)]
    num_408 = sum(plug.recv(4096).startswith(b"HTTP/1.1 408") for plug in plugs)
    for plug in plugs:
        plug.close()
    return num_408, latencies


def disconnect(server: Server, num_disconnects: int) -> float:
    """Clients that disconnect early; seconds until no answer is generated any more."""

    def one(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = {"model": server.model, "prompt": f"A raposa {number}", "max_tokens": 100}
        connection.request(
            "POST", "/v1/completions", json.dumps(body | {"stream": number % 4 > 0}), HEAD
        )
        if number % 4 > 0:
            connection.getresponse().read(1)
        else:
            time.sleep(0.01)
        connection.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(num_disconnects)))
    started_at = time.perf_counter()
    while server.metric("active_requests") + server.metric("waiting_requests"):
        time.sleep(0.01)
    return time.perf_counter() - started_at


def differing_texts(server: Server) -> int:
    """How many of 64 concurrent clients get another greedy text than a client alone."""
    prompts = [f"A raposa número {i} " * (1 + i % 5) for i in range(64)]
    alone = [server.ask(prompt, 24)[1] for prompt in prompts]
    with ThreadPoolExecutor(64) as pool:
        together = [text for _, text, _ in pool.map(lambda p: server.ask(p, 24), prompts)]
    return sum(a != b for a, b in zip(alone, together, strict=True))


def p95(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=20)[-1]


def attack_rounds(
    server: Server, num_requests: int, num_rounds: int
) -> tuple[Counter[str], list[float]]:
    """All bad requests in `num_rounds` rounds; for each, p95 under attack divided by p95 alone."""
    counts, ratios = Counter[str](), []
    with attackers() as pool:
        for number in range(num_rounds):
            calm = good_latencies(server, lambda num_sent: num_sent < 60)
            round_counts, latencies = attack(pool, server, num_requests // num_rounds, 10 * number)
            counts.update(round_counts)
            ratios.append(p95(latencies) / p95(calm))
    return counts, ratios


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--fuzz", type=int, default=20_000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--disconnects", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from support.small_run import make_run  # loads torch, which attackers do not need

    with tempfile.TemporaryDirectory() as folder:
        run_dir = make_run(Path(folder) / "tiny", max_position_embeddings=256)
        turns = [{"role": "user", "content": "Olá"}, {"role": "assistant", "content": "A raposa."}]
        (run_dir / CHAT_DATA).write_text(json.dumps({"messages": turns}) + "\n")
        server = Server(run_dir)
        try:
            attack_rounds(server, 1000, 1)
            disconnect(server, 100)
            differing_texts(server)
            shut_out(server)
            with attackers() as pool:
                fuzz(pool, server, min(1000, options.fuzz))
            before_mb = server.rss_mb()
            counts, ratios = attack_rounds(server, options.requests, options.rounds)
            with attackers() as pool:
                fuzzed = fuzz(pool, server, options.fuzz)
            calm = [server.ask("A raposa")[2] for _ in range(100)]
            num_408, beside_slow = hold_slowly(server, options.slow)
            num_shut_out = shut_out(server)
            settled_s = disconnect(server, options.disconnects)
            differ = differing_texts(server)
            alive = server.ask("A raposa")[0] == 200 and server.child.poll() is None
            cut = texts_after_a_cut(server, run_dir)
            growth = server.rss_mb() / before_mb - 1
            server.child.terminate()
            code = server.child.wait(timeout=30)
        finally:
            server.child.kill()
    calm_s = p95(calm)
    for figure, value, unit, goal, holds in (
        ("F17 crashes", int(not alive), "crashes", 0, alive),
        (
            "F17 bad requests answered",
            counts["sent"],
            "requests",
            options.requests,
            counts["sent"] >= 0.95 * options.requests,
        ),
        ("F17 answers of 500", counts["500"], "answers", 0, counts["500"] == 0),
        ("F17 refusals without a field", counts["unnamed"], "answers", 0, counts["unnamed"] == 0),
        (
            "F17 drawn requests answered",
            fuzzed["sent"],
            "requests",
            options.fuzz,
            fuzzed["sent"] >= 0.95 * options.fuzz,
        ),
        ("F17 drawn requests with a 500", fuzzed["500"], "answers", 0, fuzzed["500"] == 0),
        ("F17 texts changed beside them", fuzzed["changed"], "texts", 0, fuzzed["changed"] == 0),
        ("F17 good clients shut out", num_shut_out, "of 40", 0, num_shut_out == 0),
        ("F17 texts changed after its files were cut", cut, "of 8", 0, cut == 0),
        ("F17 slow clients told 408", num_408, "clients", options.slow, num_408 == options.slow),
        ("F17 idle again after disconnects", settled_s, "s", 1.0, settled_s <= 1),
        ("F17 greedy texts that differ", differ, "of 64", 0, differ == 0),
        ("F17 memory growth", growth, "fraction", 0.05, growth <= 0.05),
        (
            UNDER_ATTACK,
            statistics.median(ratios),
            "times calm",
            2.0,
            statistics.median(ratios) <= 2,
        ),
        (
            "F17 healthy p95 beside slow clients",
            p95(beside_slow) / calm_s,
            "times calm",
            2.0,
            p95(beside_slow) <= 2 * calm_s,
        ),
        ("F17 exit code after SIGTERM", code, "code", 0, code == 0),
    ):
        spread = max(ratios) - min(ratios) if figure == UNDER_ATTACK else 0
        row = {"figure": figure, "value": value, "spread": spread, "unit": unit, "peer": PEER}
        print(json.dumps({**row, "goal": goal, "holds": bool(holds)}))


if __name__ == "__main__":
    main()
