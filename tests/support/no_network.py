"""A test fails where anything asks another machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

OWN = ("127.0.0.1", "::1", "localhost", "", None)


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Every name looked up and every address connected to, but for this machine's, is refused.

    The list holds what was tried: a library may swallow the error.
    """
    tried: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def refusing_connect(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in OWN:
            tried.append(str(address))
            raise OSError(f"the test has no network: {address}")
        connect(self, address)

    def refusing_look_up(host: Any, *given: Any, **more: Any) -> Any:
        if host not in OWN:
            tried.append(str(host))
            raise socket.gaierror(f"the test has no network: {host}")
        return look_up(host, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refusing_connect)
        patch.setattr(socket, "getaddrinfo", refusing_look_up)
        yield tried
