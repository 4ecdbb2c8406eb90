"""A real server on a free port in this process, over a small random model."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.access_guard import AccessGuard
from teenytinyllama.serving.app import App
from teenytinyllama.serving.http_server import serve
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.search.search_service import SearchLoader
from teenytinyllama.serving.server import listen


class RunningServer:
    """One running server: its address, its app, and requests made by hand."""

    def __init__(self, app: App, port: int) -> None:
        self.app, self.port = app, port
        self.url = f"http://127.0.0.1:{port}"

    def ask(
        self,
        path: str,
        value: Any = None,
        *,
        method: str = "",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any, HTTPResponse]:
        """Status, JSON (or text) and the response of one request on a fresh connection."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if body is not None else (json.dumps(value).encode() if value else None)
        kinds = {"content-type": "application/json"} if data is not None else {}
        method = method or ("POST" if data is not None else "GET")
        try:
            connection.request(method, path, data, {**kinds, **(headers or {})})
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        kind = response.getheader("content-type", "")
        parsed = json.loads(raw) if kind.startswith("application/json") and raw else raw.decode()
        return response.status, parsed, response

    def raw(self, data: bytes, *, wait_s: float = 10.0) -> bytes:
        """What the server answers to these bytes until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as plug:
            plug.sendall(data)
            out = b""
            try:
                while part := plug.recv(65536):
                    out += part
            except OSError:
                pass
            return out


@contextmanager
def running(
    chat_models: Sequence[ChatModel],
    limits: Limits | None = None,
    *,
    guard: AccessGuard | None = None,
    search: SearchLoader | None = None,
) -> Iterator[RunningServer]:
    """Serve until the block ends; the server then drains."""
    app = App(chat_models, limits or Limits(), guard or AccessGuard(), search)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(app, listener, stop)))
    app.scheduler.start()
    thread.start()
    try:
        yield RunningServer(app, port)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
        app.scheduler.stop()
        loop.close()
        listener.close()


def wait_until(condition: Any, *, timeout_s: float = 10.0) -> None:
    """Return when `condition()` is true; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
