"""Who is answered: this machine's browser on our own page, and clients that know the key.

A page of another site can make a browser send requests to 127.0.0.1, and by DNS rebinding even
read the answers: `Host` then has another name, or `Origin` another site.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable

from starlette.requests import Request

from teenytinyllama.serving.http_messages import HTTPError, header

MAX_PORT = 65535
OWN_NAMES = ("localhost",)
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]*:[0-9a-f:.]*\]|[0-9a-z._-]+)(:(?P<port>[0-9]{0,5}))?")


class AccessGuard:
    """Checks `Host`, `Origin` and the key.

    A numeric host is accepted where it is this machine's loopback or the address that the client
    is connected to.
    """

    def __init__(self, allowed_hosts: Iterable[str] = (), api_key: str = "") -> None:
        self._names = {name.lower() for name in (*OWN_NAMES, *allowed_hosts)}
        self._key_digest = _digest(api_key) if api_key else b""

    @property
    def needs_key(self) -> bool:
        """Whether a key is needed."""
        return bool(self._key_digest)

    def check_site(self, request: Request) -> None:
        """Raise HTTPError (403) for a request that may come from another site."""
        host = header(request, "host").lower()
        if not self._is_own_host(host, str((request.scope.get("server") or ("",))[0])):
            message = f"the host {ascii(host)[:80]} is not served; name it with --allow-host"
            raise HTTPError(403, "host-not-allowed", message, field="host")
        origin = header(request, "origin").lower()
        if origin and origin.partition("://")[2] != host:
            message = f"requests from {ascii(origin)[:80]} are not allowed"
            raise HTTPError(403, "origin-not-allowed", message, field="origin")

    def _is_own_host(self, host: str, local_address: str) -> bool:
        found = HOST.fullmatch(host)
        if found is None or int(found["port"] or 0) > MAX_PORT:
            return False
        name = found["name"].strip("[]")
        if name in self._names:
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or address == _address(local_address))

    def knows_key(self, request: Request) -> bool:
        """Whether no key is needed, or the right one is given; compared in constant time."""
        if not self._key_digest:
            return True
        kind, _, key = header(request, "authorization").partition(" ")
        right = hmac.compare_digest(_digest(key.strip()), self._key_digest)
        return right and kind.lower() == "bearer"

    def check_key(self, request: Request) -> None:
        """Raise HTTPError (401) where the key is missing or wrong."""
        if not self.knows_key(request):
            raise HTTPError(
                401,
                "api-key",
                "this server needs its key: Authorization: Bearer KEY",
                field="authorization",
                headers={"www-authenticate": "Bearer"},
            )


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address in its usual notation; None for a name, and for decimal, hexadecimal or short
    forms, which browsers replace before they send them.

    >>> [str(_address(n)) for n in ("127.0.0.1", "::ffff:127.0.0.1", "0x7f.1", "2130706433")]
    ['127.0.0.1', '127.0.0.1', 'None', 'None']
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
