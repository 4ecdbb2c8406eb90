"""What every request and response passes through: limits of size and time, headers, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from teenytinyllama.serving.limits import Limits

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
ERROR_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
RETRY_AFTER_S = 2
MAX_DISCARDED_BYTES = 16 * 1024 * 1024
DISCARD_TIMEOUT_S = 2.0


class HTTPError(HTTPException):
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
        super().__init__(status, message, headers)
        self.code, self.field = code, field

    def as_json(self) -> dict[str, dict[str, str | None]]:
        """The body, in the form that OpenAI's clients read."""
        kind = "server_error" if self.status_code >= 500 else "invalid_request_error"
        kind = ERROR_KINDS.get(self.status_code, kind)
        error = {"message": self.detail, "type": kind, "param": self.field, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The response to send."""
        return JSONResponse(self.as_json(), self.status_code, self.headers)


def invalid_field(field: str, message: str, *, code: str = "invalid-value") -> HTTPError:
    """A 400 that names the field."""
    return HTTPError(400, code, message, field=field)


def busy(message: str) -> HTTPError:
    """A 503 that asks the client to come again."""
    message = f"{message}; try again in {RETRY_AFTER_S} s"
    return HTTPError(503, "busy", message, headers={"retry-after": str(RETRY_AFTER_S)})


def header(request: Request, name: str) -> str:
    """A header's value, empty where it is missing. Raises HTTPError where it is repeated."""
    found = request.headers.getlist(name)
    if len(found) > 1:
        raise HTTPError(400, "header-twice", f"the header {name} is given twice", field=name)
    return found[0] if found else ""


def check_framing(request: Request) -> None:
    """Raise HTTPError where two readers of the head could see the body end at two places.

    Whatever stands behind it in the connection is then not read: it may be a smuggled request
    (RFC 9112, section 6.3).
    """
    is_old = request.scope["http_version"] not in ("1.1", "2")
    if "transfer-encoding" in request.headers and ("content-length" in request.headers or is_old):
        message = "transfer-encoding beside content-length, or in HTTP/1.0, is not accepted"
        raise HTTPError(400, "framing", message, field="transfer-encoding")


def check_json(request: Request) -> None:
    """Raise HTTPError (415) where the body is not announced as plain JSON."""
    kind = header(request, "content-type").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        message = f"content-type is {ascii(kind)[:80]}, expected {JSON_TYPE}"
        raise HTTPError(415, "content-type", message, field="content-type")
    if header(request, "content-encoding") not in ("", "identity"):
        message = "compressed bodies are not accepted"
        raise HTTPError(415, "content-encoding", message, field="content-encoding")


class LimitedRequest:
    """One request and its response, each within its limits."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.request = Request(scope, self.receive)
        self.limits = limits
        self.status = 0
        """Of the response; 0 before it starts."""
        self._receive, self._send = receive, send
        self._size = 0
        self._deadline: float | None = None
        self._body_ended = False

    async def receive(self) -> Message:
        """The next part of the body. Raises HTTPError where it is too large or too slow."""
        if self._body_ended:
            return await self._receive()
        announced = header(self.request, "content-length")
        if announced.isdecimal():
            self._check_size(int(announced[:20]))
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self.limits.body_timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive_part()
        except TimeoutError:
            text = f"the body took more than {self.limits.body_timeout_s:g} s"
            raise HTTPError(408, "body-slow", text, field="body") from None
        self._check_size(self._size)
        return message

    async def _receive_part(self) -> Message:
        message = await self._receive()
        self._body_ended = not message.get("more_body", False)
        self._size += len(message.get("body", b""))
        return message

    def _check_size(self, size: int) -> None:
        if size > self.limits.max_body_bytes:
            message = f"the body has more than {self.limits.max_body_bytes} bytes"
            raise HTTPError(413, "body-too-large", message, field="body")

    async def send(self, message: Message) -> None:
        """Send a part of the response. Raises ClientDisconnect where the client does not read it.

        An error closes the connection where the body has not been read.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.setdefault("cache-control", "no-store")
            headers.update(SECURITY_HEADERS)
            if self.status >= 400 and not self._body_ended:
                headers["connection"] = "close"
        elif not message.get("more_body") and self.status in (408, 413):
            # The client may still be sending: if the connection closed now, it would be reset
            # before the client has read the response.
            await self._send_in_time({**message, "more_body": True})
            await self._discard_body()
            message = {"type": "http.response.body", "body": b""}
        await self._send_in_time(message)

    async def _send_in_time(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self.limits.write_timeout_s):
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnect from None

    async def _discard_body(self) -> None:
        most = self._size + MAX_DISCARDED_BYTES
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                while not self._body_ended and self._size < most:
                    await self._receive_part()
        except TimeoutError:
            return
