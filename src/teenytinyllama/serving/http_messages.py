"""One HTTP request and its response: bounded reading, whole bodies, event streams, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

from teenytinyllama.serving.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_TYPE = "application/json"
# The page loads nothing from other sites, runs no inline script and is not framed by other sites.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
MAX_DISCARDED_BYTES = 16 * 1024 * 1024
DISCARD_TIMEOUT_S = 2.0


class HTTPError(Exception):
    """A request that gets an error response: status, a stable code, the wrong field."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = dict(headers or {})

    def as_json(self) -> dict[str, Any]:
        """The body, in the form that OpenAI's clients read."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "")
        return {
            "error": {
                "message": self.message,
                "type": kind or "invalid_request_error",
                "param": self.field,
                "code": self.code,
            }
        }


class ClientDisconnect(Exception):  # noqa: N818 (no error of the server)
    """The client has left, or does not accept its response."""


class HTTPRequest:
    """One request: its head, its body within the limits, and the one response to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._version: str = scope["http_version"]
        self.local_address = str((scope.get("server") or ("",))[0])
        self.limits = limits
        self.status = 0
        self.num_body_bytes = 0
        self._receive, self._send = receive, send
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._body_ended = False

    def check_framing(self) -> None:
        """Raise HTTPError where two readers of the head could see the body end at two places.

        Whatever stands behind it in the connection is then not read: it may be a smuggled request
        (RFC 9112, section 6.3).
        """
        names = {name for name, _ in self._headers}
        is_old = self._version not in ("1.1", "2")
        if b"transfer-encoding" in names and (b"content-length" in names or is_old):
            message = "transfer-encoding beside content-length, or in HTTP/1.0, is not accepted"
            raise HTTPError(400, "framing", message, field="transfer-encoding")

    def header(self, name: str) -> str:
        """A header's value, empty where it is missing. Raises HTTPError where it is repeated."""
        found = [value for key, value in self._headers if key == name.encode()]
        if len(found) > 1:
            raise HTTPError(400, "header-twice", f"the header {name} is given twice", field=name)
        return found[0].decode("latin-1") if found else ""

    async def read_body(self) -> bytes:
        """The whole body. Raises HTTPError where it is too large or too slow."""
        limit = self.limits.max_body_bytes
        message = f"the body has more than {limit} bytes"
        too_large = HTTPError(413, "body-too-large", message, field="body")
        announced = self.header("content-length")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                while not self._body_ended:
                    parts.append(await self._read_part())
                    if sum(map(len, parts)) > limit:
                        raise too_large
        except TimeoutError:
            message = f"the body took more than {self.limits.body_timeout_s:g} s"
            raise HTTPError(408, "body-slow", message, field="body") from None
        return b"".join(parts)

    async def _read_part(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        self._body_ended = not event.get("more_body", False)
        part: bytes = event.get("body", b"")
        self.num_body_bytes += len(part)
        return part

    async def read_json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises HTTPError where it is none."""
        kind = self.header("content-type").partition(";")[0].strip().lower()
        if kind != JSON_TYPE:
            message = f'content-type is "{kind[:80]}", expected {JSON_TYPE}'
            raise HTTPError(415, "content-type", message, field="content-type")
        if self.header("content-encoding") not in ("", "identity"):
            message = "compressed bodies are not accepted"
            raise HTTPError(415, "content-encoding", message, field="content-encoding")
        body = await self.read_body()
        try:
            value = json.loads(body.decode("utf-8-sig"), parse_constant=_reject_constant)
        except RecursionError:
            raise HTTPError(400, "json", "the body is nested too deeply", field="body") from None
        except ValueError as error:
            message = f"the body is not JSON in UTF-8: {str(error)[:120]}"
            raise HTTPError(400, "json", message, field="body") from None
        if not isinstance(value, dict):
            message = f"the body is a JSON {type(value).__name__}, expected an object"
            raise HTTPError(400, "json", message, field="body")
        return value

    async def wait_for_disconnect(self) -> None:
        """Return when the client has left; what it still sends is discarded."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def respond(
        self,
        body: bytes,
        content_type: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole response."""
        size = {"content-length": str(len(body))}
        await self._send_head(status, content_type, {**size, **(headers or {})})
        if self._body_ended or status not in (408, 413):
            await self._send_body(body, more=False)
            return
        # The client may still be sending: if the connection closed now, it would be reset before
        # the client has read the response.
        await self._send_body(body, more=True)
        await self._discard_body()
        await self._send_body(b"", more=False)

    async def _discard_body(self) -> None:
        size = 0
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                while not self._body_ended and size < MAX_DISCARDED_BYTES:
                    size += len(await self._read_part())
        except TimeoutError:
            return

    async def respond_json(self, value: Any, *, status: int = 200) -> None:
        """Send a JSON response."""
        await self.respond(to_json(value), JSON_TYPE, status=status)

    async def respond_error(self, error: HTTPError) -> None:
        """Send an error; the connection closes where the body has not been read."""
        headers = dict(error.headers)
        if not self._body_ended:
            headers["connection"] = "close"
        body = to_json(error.as_json())
        await self.respond(body, JSON_TYPE, status=error.status, headers=headers)

    async def start_events(self) -> None:
        """Start a stream of server-sent events."""
        await self._send_head(200, "text/event-stream; charset=utf-8", {"x-accel-buffering": "no"})

    async def send_event(self, value: Any) -> None:
        """Send one event: a value as JSON, or text as it is (`[DONE]`)."""
        data = value.encode() if isinstance(value, str) else to_json(value)
        await self._send_body(b"data: " + data + b"\n\n", more=True)

    async def end_events(self) -> None:
        """End the stream."""
        await self._send_body(b"", more=False)

    async def _send_head(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        self.status = status
        whole = {"content-type": content_type, "cache-control": "no-store", **SECURITY_HEADERS}
        whole.update(headers)
        rows = [(name.encode(), value.encode("latin-1")) for name, value in whole.items()]
        await self._send_in_time({"type": "http.response.start", "status": status, "headers": rows})

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        await self._send_in_time({"type": "http.response.body", "body": body, "more_body": more})

    async def _send_in_time(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self.limits.write_timeout_s):
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnect from None


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
