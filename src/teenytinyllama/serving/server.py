"""`ttl serve`: OpenAI's API, a chat page, and a search of the chat data, over HTTP.

One process, one thread that generates for all clients, uvicorn for HTTP; on 127.0.0.1 by default.
Nothing is downloaded: the models are those named at the start.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.inference.chat_model import (
    AnyChatModel,
    ChatModel,
    describe,
    load_any,
    model_names,
)
from teenytinyllama.regular_files import check_regular
from teenytinyllama.serving.access_guard import AccessGuard
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.search.chat_sources import find_chat_sources
from teenytinyllama.serving.search.search_service import SearchLoader

logger = logging.getLogger(__name__)

MIN_KEY_CHARACTERS = 16
# Torch keeps a kernel for every shape of a matrix product, 1,024 in each of two caches. Each number
# of clients is another shape: memory grew by a fifth.
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
MAX_KERNELS = 64
MAX_CACHED_WORDS = 20_000  # 4 MB in the tokenizer; clients choose the words
SWITCH_INTERVAL_S = 0.0005  # the generating thread waits at most this long for the interpreter


def limit_kernels() -> None:
    """Let torch keep few kernels. Call it before any matrix product: torch reads this once."""
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(MAX_KERNELS))


def run(
    *,
    models: Sequence[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_path: Path | None = None,
    needs_no_key: bool = False,
    allowed_hosts: Sequence[str] = (),
    data: Sequence[Path] = (),
    assignments: Sequence[str] = (),
) -> None:
    """Load the models and serve until SIGTERM or Ctrl-C; running answers are finished."""
    limit_kernels()
    try:
        from teenytinyllama.serving.app import App
        from teenytinyllama.serving.http_server import serve
    except ImportError as error:
        raise missing_extra(error.name or "uvicorn", "serve") from error
    if api_key_path and needs_no_key:
        what = "given with --api-key-file"
        raise UserError("serve-options", "--no-key", what, "give one of them")
    limits = Limits()
    for assignment in assignments:
        limits = limits.changed(assignment)
    guard = AccessGuard((*allowed_hosts, host), read_key(api_key_path) if api_key_path else "")
    with listen(host, port) as listener:
        if not (guard.needs_key or needs_no_key):
            check_local(host, listener)
        chat_models = load_all(models)
        sources = find_chat_sources(models, data)
        search = SearchLoader(sources) if sources else None
        app = App(chat_models, limits, guard, search)
        app.scheduler.start()
        if search is not None:
            search.start()
        shown = f"[{host}]" if ":" in host else host
        for chat_model in chat_models:
            logger.info(describe(chat_model))
        logger.info(f"http://{shown}:{listener.getsockname()[1]}  (Ctrl-C stops)")
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        asyncio.run(_until_signal(lambda stop: serve(app, listener, stop)))
        app.scheduler.stop()
        logger.info("serve: stopped, all answers sent")


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    await serve(stop)


def load_all(models: Sequence[Path]) -> list[AnyChatModel]:
    """Load every model, named by its folder, or by its path where two folders share a name."""
    names = model_names(models)
    if len(set(names)) < len(names):
        raise UserError("model-twice", "MODEL", "a model is given twice", "give it once")
    chat_models = [load_any(path, name=name) for path, name in zip(models, names, strict=True)]
    for chat_model in chat_models:
        if isinstance(chat_model, ChatModel):
            chat_model.encoder.limit_cache(MAX_CACHED_WORDS)
    return chat_models


def read_key(path: Path) -> str:
    """The key in a file: its only line. Raises UserError where it is missing or too short."""
    fix = f"write a line of at least {MIN_KEY_CHARACTERS} characters there"
    try:
        check_regular(path)
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError("api-key-file", str(path), "cannot be read", fix) from error
    if len(key) < MIN_KEY_CHARACTERS or any(character.isspace() for character in key):
        raise UserError("api-key-file", str(path), f"a key of {len(key)} characters", fix)
    return key


def check_local(host: str, listener: socket.socket) -> None:
    """Raise UserError where other machines can reach a server without a key."""
    if not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
        what = "other machines could use this server, and it has no key"
        fix = "--api-key-file FILE (a line of 16 characters or more), or --no-key for all of them"
        raise UserError("serve-without-key", f"--host {host}", what, fix)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError where the address is wrong or the port in use."""
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
    """The process that listens on a port, where this user may see it."""
    with suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                return int(one.pid) if one.pid else None
    return None
