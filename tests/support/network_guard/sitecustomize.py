"""Refuses every connection to another machine in a process that has this folder on its path.

What was tried is written to the file that NETWORK_ATTEMPTS names: a library may swallow the error.
"""

import os
import sys

LOOKED_UP = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyname_ex"}
CONNECTED = {"socket.connect", "socket.sendto", "socket.sendmsg"}
OWN = ("", None, "localhost", "::1", "0.0.0.0")


def refuse(event, arguments):
    if event in LOOKED_UP:
        host = arguments[0]
    elif event in CONNECTED and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host in OWN or str(host).startswith("127."):
        return
    with open(os.environ["NETWORK_ATTEMPTS"], "a") as file:  # noqa: PTH123 (too early for pathlib)
        file.write(f"{event} {host}\n")
    raise OSError(f"this test has no network: {event} {host}")


sys.addaudithook(refuse)
