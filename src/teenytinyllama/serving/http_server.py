"""uvicorn with limits on connections: number, idle time, and size and time of a request's head.

A head that is not complete in time gets a 408, idle connections are closed for new ones, and
malformed HTTP is answered in JSON like everything else.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from teenytinyllama.serving.app import App
from teenytinyllama.serving.http_messages import HTTPError

MAX_HEAD_BYTES = 32 * 1024
MAX_HEAD_LINES = 100  # h11 parses a line of a head in 10 us, and blocks the event loop
END_OF_HEAD = re.compile(rb"\n\r?\n")


class HTTPServerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with our limits."""

    _head_timer: asyncio.TimerHandle | None = None
    _waits_since = 0.0  # for the rest of a head, of a body, or for the next request

    @property
    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _awaits_client(self) -> bool:
        return self._awaits_head or self.cycle.more_body

    def connection_made(self, transport: Any) -> None:
        """Close an idle connection where there are too many, and start the timer of the head."""
        super().connection_made(transport)
        self._waits_since = self.loop.time()
        if len(self.connections) > self.app.limits.max_connections:
            self._close_oldest_waiting()
        self._start_timer()

    def _close_oldest_waiting(self) -> None:
        """Close the connection whose client has been waited for longest, else this one."""
        others = (c for c in self.connections if isinstance(c, HTTPServerProtocol))
        waiting = (
            c for c in others if c is not self and c._awaits_client and not c.transport.is_closing()
        )
        oldest = min(waiting, key=lambda c: c._waits_since, default=self)
        message = "too many connections are open"
        oldest._end_with(HTTPError(503, "busy", message, headers={"retry-after": "2"}))

    def on_response_complete(self) -> None:
        """The connection waits for its next request."""
        self._waits_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection was closed."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse new bytes; the timer runs until the head is complete."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # bytes after a response that closes the connection
            self.transport.close()
        if not self._awaits_head:
            if self._head_timer is not None:
                self._waits_since = self.loop.time()  # the head is here, the body is waited for
            self._stop_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._start_timer()

    def handle_events(self) -> None:
        """Check a head's size before it is parsed."""
        if self.conn.their_state is h11.IDLE and self._awaits_head:
            held, _ = self.conn.trailing_data
            found = END_OF_HEAD.search(held)
            size = found.start() if found else len(held)
            if size > MAX_HEAD_BYTES or held.count(b"\n", 0, size) > MAX_HEAD_LINES:
                message = f"at most {MAX_HEAD_LINES} lines and {MAX_HEAD_BYTES} bytes are allowed"
                self._close_with(HTTPError(431, "head-too-large", message, field="head"))
                return
        super().handle_events()

    def _start_timer(self) -> None:
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(
                self.app.limits.header_timeout_s, self._on_timeout
            )

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_timeout(self) -> None:
        self._head_timer = None
        if self._awaits_head and not self.transport.is_closing():
            message = f"no request came in {self.app.limits.header_timeout_s:g} s"
            self._close_with(HTTPError(408, "head-slow", message, field="head"))

    def send_400_response(self, msg: str) -> None:
        """Malformed HTTP: respond where no response has started, and close."""
        self._end_with(HTTPError(400, "http", "this is not valid HTTP/1.1", field="head"))

    def _end_with(self, error: HTTPError) -> None:
        """End the request that is being read; respond where no response has started."""
        if self._awaits_head or not self.cycle.response_started:
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._close_with(error)
        else:
            self.transport.close()

    def _close_with(self, error: HTTPError) -> None:
        response = error.response()
        rows = [b"HTTP/1.1 %d Error" % error.status_code]
        rows += [b"%s: %s" % row for row in response.raw_headers]
        head = b"\r\n".join([*rows, b"connection: close", b"", b""])
        self.transport.write(head + bytes(response.body))
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: App, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then refuse new requests and finish the running ones."""
    config = uvicorn.Config(
        app,
        http=HTTPServerProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=max(1, int(app.limits.keep_alive_s)),
        timeout_graceful_shutdown=max(1, int(app.limits.drain_s) + 1),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        backlog=1024,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    app.scheduler.drain()
    deadline = asyncio.get_running_loop().call_later(app.limits.drain_s, app.scheduler.end_all)
    server.should_exit = True
    await serving
    deadline.cancel()
