"""One request and its answer over HTTP: bounded reading, whole answers, streams, refusals."""

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
# Nothing on the page may come from elsewhere, run inline, or be shown in another site's frame.
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


class Refusal(Exception):  # noqa: N818 (it becomes an answer)
    """A request that is answered with an error: status, a stable code, the field at fault."""

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
        """The body, in the shape that OpenAI's clients read."""
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


class Disconnected(Exception):  # noqa: N818 (it is no fault of ours)
    """The client is gone, or does not take its answer; nobody is left to be told."""


class Exchange:
    """One request: its head, its body within the limits, and the one answer to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.limits = limits
        self.status = 0
        self.num_body_bytes = 0
        self._receive, self._send = receive, send
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._body_ended = False

    def header(self, name: str) -> str:
        """A header's value, empty where it is missing. Raises Refusal where it is given twice."""
        found = [value for key, value in self._headers if key == name.encode()]
        if len(found) > 1:
            raise Refusal(400, "header-twice", f"the header {name} is given twice", field=name)
        return found[0].decode("latin-1") if found else ""

    async def read_body(self) -> bytes:
        """The whole body. Raises Refusal where it is too large or too slow."""
        limit = self.limits.max_body_bytes
        message = f"the body has more than {limit} bytes"
        too_large = Refusal(413, "body-too-large", message, field="body")
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
            raise Refusal(408, "body-slow", message, field="body") from None
        return b"".join(parts)

    async def _read_part(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise Disconnected
        self._body_ended = not event.get("more_body", False)
        part: bytes = event.get("body", b"")
        self.num_body_bytes += len(part)
        return part

    async def read_json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Refusal where it is none."""
        kind = self.header("content-type").partition(";")[0].strip().lower()
        if kind != JSON_TYPE:
            message = f'content-type is "{kind[:80]}", expected {JSON_TYPE}'
            raise Refusal(415, "content-type", message, field="content-type")
        if self.header("content-encoding") not in ("", "identity"):
            message = "compressed bodies are not accepted"
            raise Refusal(415, "content-encoding", message, field="content-encoding")
        body = await self.read_body()
        try:
            value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        except RecursionError:
            raise Refusal(400, "json", "the body is nested too deeply", field="body") from None
        except ValueError as error:
            message = f"the body is not JSON in UTF-8: {str(error)[:120]}"
            raise Refusal(400, "json", message, field="body") from None
        if not isinstance(value, dict):
            message = f"the body is a JSON {type(value).__name__}, expected an object"
            raise Refusal(400, "json", message, field="body")
        return value

    async def wait_for_disconnect(self) -> None:
        """Return when the client is gone; what it still sends is thrown away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(
        self,
        body: bytes,
        content_type: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Give the whole answer."""
        size = {"content-length": str(len(body))}
        await self._begin(status, content_type, {**size, **(headers or {})})
        if self._body_ended or status not in (408, 413):
            await self._pass_on(body, more=False)
            return
        # The client may still be sending: closing now would take the answer from its hands.
        await self._pass_on(body, more=True)
        await self._discard()
        await self._pass_on(b"", more=False)

    async def _discard(self) -> None:
        size = 0
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                while not self._body_ended and size < MAX_DISCARDED_BYTES:
                    size += len(await self._read_part())
        except TimeoutError:
            return

    async def answer_json(self, value: Any, *, status: int = 200) -> None:
        """Give a JSON answer."""
        await self.answer(to_json(value), JSON_TYPE, status=status)

    async def refuse(self, refusal: Refusal) -> None:
        """Say what is wrong; the connection ends where the body has not been read."""
        headers = dict(refusal.headers)
        if not self._body_ended:
            headers["connection"] = "close"
        body = to_json(refusal.as_json())
        await self.answer(body, JSON_TYPE, status=refusal.status, headers=headers)

    async def begin_events(self) -> None:
        """Begin a stream of server-sent events."""
        await self._begin(200, "text/event-stream; charset=utf-8", {"x-accel-buffering": "no"})

    async def send_event(self, value: Any) -> None:
        """One event: a JSON value, or `[DONE]` as it is."""
        data = value.encode() if isinstance(value, str) else to_json(value)
        await self._pass_on(b"data: " + data + b"\n\n", more=True)

    async def end_events(self) -> None:
        """Close the stream."""
        await self._pass_on(b"", more=False)

    async def _begin(self, status: int, content_type: str, headers: Mapping[str, str]) -> None:
        self.status = status
        whole = {"content-type": content_type, "cache-control": "no-store", **SECURITY_HEADERS}
        whole.update(headers)
        rows = [(name.encode(), value.encode("latin-1")) for name, value in whole.items()]
        await self._out({"type": "http.response.start", "status": status, "headers": rows})

    async def _pass_on(self, body: bytes, *, more: bool) -> None:
        await self._out({"type": "http.response.body", "body": body, "more_body": more})

    async def _out(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self.limits.write_timeout_s):
                await self._send(message)
        except TimeoutError:
            raise Disconnected from None


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
