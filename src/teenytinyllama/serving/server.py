"""Serve models over HTTP: OpenAI's API, a page to chat on, and a search of the chat data.

One process, one thread that generates for everybody, uvicorn for HTTP; on 127.0.0.1 unless told
otherwise. Nothing is ever downloaded: the models are those that were named at the start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.inference.chat_model import ChatModel, load_any
from teenytinyllama.serving.access_guard import Guard
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.search.search_service import Lookup, sources_of

logger = logging.getLogger(__name__)


if TYPE_CHECKING:  # only where a GGUF file is served
    from teenytinyllama.inference.llama_cpp import GgufChatModel

MIN_KEY_CHARACTERS = 16
# Torch keeps a kernel for every shape of a product that it has met, 1,024 in each of two caches.
# A server meets another shape for every number of clients: its memory grew by a fifth.
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
MAX_KERNELS = 64
MAX_REMEMBERED_WORDS = 20_000  # 4 MB; whoever asks chooses the words
SWITCH_INTERVAL_S = 0.0005  # the generating thread waits no longer than this for the interpreter


def limit_kernels() -> None:
    """Let torch remember few kernels. Before it is imported: it asks once."""
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(MAX_KERNELS))


def run(
    *,
    models: Sequence[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_path: Path | None = None,
    allowed_hosts: Sequence[str] = (),
    data: Sequence[Path] = (),
    assignments: Sequence[str] = (),
) -> None:
    """Load the models and answer until SIGTERM or Ctrl-C; answers under way are finished."""
    limit_kernels()
    try:
        from teenytinyllama.serving.app import App
        from teenytinyllama.serving.http_server import listen, serve
    except ImportError as error:
        raise missing_extra(error.name or "uvicorn", "serve") from error
    limits = Limits()
    for assignment in assignments:
        limits = limits.changed(assignment)
    guard = Guard((*allowed_hosts, host), read_key(api_key_path) if api_key_path else "")
    with listen(host, port) as listener:
        chat_models = load_all(models)
        sources = sources_of(models, data)
        views = (one for one in chat_models if isinstance(one, ChatModel))
        lookup = Lookup(sources, next(views, None)) if sources else None
        app = App(chat_models, limits, guard, lookup)
        app.engine.start()
        if lookup is not None:
            lookup.start()
        shown = f"[{host}]" if ":" in host else host
        for chat_model in chat_models:
            kind = "answers" if chat_model.answers else "a base model: it goes on with text"
            logger.info(f"{chat_model.name}: {chat_model.folder} ({kind})")
        logger.info(f"http://{shown}:{listener.getsockname()[1]}  (Ctrl-C stops)")
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        asyncio.run(_until_signal(lambda stop: serve(app, listener, stop)))
        app.engine.stop()
        logger.info("serve: stopped, all answers given")


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    await serve(stop)


def load_all(models: Sequence[Path]) -> list[ChatModel | GgufChatModel]:
    """Every model under its folder's name, or under its path where two folders share a name."""
    names = [path.resolve().name for path in models]
    if len(set(names)) < len(names):
        names = [str(path) for path in models]
    if len(set(names)) < len(names):
        raise UserError("model-twice", "MODEL", "a model is named twice", "name it once")
    chat_models = [load_any(path, name=name) for path, name in zip(models, names, strict=True)]
    for chat_model in chat_models:
        if isinstance(chat_model, ChatModel):
            chat_model.encoder.limit_cache(MAX_REMEMBERED_WORDS)
    return chat_models


def read_key(path: Path) -> str:
    """The key in a file: its only line. Raises UserError for a missing or too short one."""
    fix = f"write a line of at least {MIN_KEY_CHARACTERS} characters there"
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError("api-key-file", str(path), "cannot be read", fix) from error
    if len(key) < MIN_KEY_CHARACTERS or any(character.isspace() for character in key):
        raise UserError("api-key-file", str(path), f"a key of {len(key)} characters", fix)
    return key
