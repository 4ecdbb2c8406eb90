"""Who is answered: this machine's browser on our own page, and clients that know the key.

A page of another site can make a browser send requests to 127.0.0.1, and by DNS rebinding even
read the answers: `Host` then has another name, or `Origin` another site.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from teenytinyllama.serving.http_messages import HTTPError, HTTPRequest

OWN_NAMES = ("localhost",)


class AccessGuard:
    """Checks `Host`, `Origin` and the key. Numeric hosts pass: rebinding needs a name."""

    def __init__(self, allowed_hosts: Iterable[str] = (), api_key: str = "") -> None:
        self._names = {name.lower() for name in (*OWN_NAMES, *allowed_hosts)}
        self._key_digest = _digest(api_key) if api_key else b""

    @property
    def needs_key(self) -> bool:
        """Whether a key is needed."""
        return bool(self._key_digest)

    def check_site(self, request: HTTPRequest) -> None:
        """Raise HTTPError (403) for a request that may come from another site."""
        host = request.header("host").lower()
        if not self._is_own_host(host):
            message = f"the host {ascii(host)[:80]} is not served; name it with --allow-host"
            raise HTTPError(403, "host-not-allowed", message, field="host")
        origin = request.header("origin").lower()
        if origin and origin.partition("://")[2] != host:
            message = f"requests from {ascii(origin)[:80]} are not allowed"
            raise HTTPError(403, "origin-not-allowed", message, field="origin")

    def _is_own_host(self, host: str) -> bool:
        if set(host) & set("/?#@\\ "):
            return False
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def check_key(self, request: HTTPRequest) -> None:
        """Raise HTTPError (401) where the key is missing or wrong; compared in constant time."""
        if not self._key_digest:
            return
        kind, _, key = request.header("authorization").partition(" ")
        right = hmac.compare_digest(_digest(key.strip()), self._key_digest)
        if kind.lower() != "bearer" or not right:
            raise HTTPError(
                401,
                "api-key",
                "this server needs its key: Authorization: Bearer KEY",
                field="authorization",
                headers={"www-authenticate": "Bearer"},
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
