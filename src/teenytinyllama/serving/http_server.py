"""The connection under the requests: a time to send a head, a number of connections, an end.

uvicorn speaks HTTP; what it leaves open is closed here. A head has to come in time (408), idle
connections make space for new ones, and broken HTTP is answered in JSON like everything else.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from teenytinyllama.errors import UserError
from teenytinyllama.serving.app import App
from teenytinyllama.serving.http_messages import Refusal, to_json

MAX_HEAD_BYTES = 32 * 1024
MAX_HEAD_LINES = 100  # h11 reads a line of a head in 10 us, in which nobody else is answered
END_OF_HEAD = re.compile(rb"\n\r?\n")


class Wire(H11Protocol):
    """uvicorn's connection with our limits."""

    _late: asyncio.TimerHandle | None = None

    @property
    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Make space for the new connection, and give it its time to send a head."""
        super().connection_made(transport)
        if len(self.connections) > self.app.limits.max_connections:
            self._make_space()
        self._watch()

    def _make_space(self) -> None:
        """Close the connection that has been without a request for longest, else this one."""
        idle = [c for c in self.connections if isinstance(c, Wire) and c._awaits_head]
        others = [c for c in idle if c is not self]
        oldest = min(others, key=lambda c: c._late.when() if c._late else 0.0, default=self)
        message = "too many connections are open"
        oldest._close_with(Refusal(503, "busy", message, headers={"retry-after": "2"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came: a request is complete, or its head still has to be watched."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # bytes after an answer that closes the connection
            self.transport.close()
        if not self._awaits_head:
            self._unwatch()
        elif self._late is None and not self.transport.is_closing():
            self._watch()

    def handle_events(self) -> None:
        """Look at a head's size before it is read: what is too large is not even taken apart."""
        if self.conn.their_state is h11.IDLE and self._awaits_head:
            held, _ = self.conn.trailing_data
            found = END_OF_HEAD.search(held)
            size = found.start() if found else len(held)
            if size > MAX_HEAD_BYTES or held.count(b"\n", 0, size) > MAX_HEAD_LINES:
                message = f"at most {MAX_HEAD_LINES} lines and {MAX_HEAD_BYTES} bytes are allowed"
                self._close_with(Refusal(431, "head-too-large", message, field="head"))
                return
        super().handle_events()

    def _watch(self) -> None:
        if not self.transport.is_closing():
            self._late = self.loop.call_later(self.app.limits.header_timeout_s, self._too_late)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self._awaits_head and not self.transport.is_closing():
            message = f"no request came in {self.app.limits.header_timeout_s:g} s"
            self._close_with(Refusal(408, "head-slow", message, field="head"))

    def send_400_response(self, msg: str) -> None:
        """Broken HTTP: say so where no answer is under way, and close."""
        if self._awaits_head or not self.cycle.response_started:
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._close_with(Refusal(400, "http", "this is not valid HTTP/1.1", field="head"))
        else:
            self.transport.close()

    def _close_with(self, refusal: Refusal) -> None:
        body = to_json(refusal.as_json())
        rows = [f"HTTP/1.1 {refusal.status} Refused", "content-type: application/json"]
        rows += [f"{name}: {value}" for name, value in refusal.headers.items()]
        rows += [f"content-length: {len(body)}", "connection: close", "", ""]
        self.transport.write("\r\n".join(rows).encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: App, listener: socket.socket, stop: asyncio.Event) -> None:
    """Answer until `stop` is set; then refuse new requests and finish those under way."""
    config = uvicorn.Config(
        app,
        http=Wire,
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
    app.engine.drain()
    hurry = asyncio.get_running_loop().call_later(app.limits.drain_s, app.engine.finish_all)
    server.should_exit = True
    await serving
    hurry.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UserError where it cannot, and says who is in the way."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        what = f"no such address ({error.strerror})"
        raise UserError("serve-host", host, what, "--host 127.0.0.1") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            owner = _owner_of(port)
            what = f"the port is in use{f' by process {owner}' if owner else ''}"
            raise UserError("port-in-use", f"{host}:{port}", what, f"--port {port + 1}") from error
        what = f"cannot listen there ({error.strerror})"
        fix = "--port 8000 --host 127.0.0.1"
        raise UserError("serve-host", f"{host}:{port}", what, fix) from error
    return listener


def _owner_of(port: int) -> int | None:
    """The process that listens on a port, where this user may know (Linux)."""
    inodes = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in Path(name).read_text().splitlines()[1:]:
                parts = row.split()
                if parts[3] == "0A" and int(parts[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{parts[9]}]")
    for handle in Path("/proc").glob("[0-9]*/fd/*") if inodes else ():
        with suppress(OSError):
            if str(handle.readlink()) in inodes:
                return int(handle.parts[2])
    return None
