"""The server's answers: OpenAI's API, health, metrics, the page, and the search behind it."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from teenytinyllama import __version__
from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.access_guard import Guard
from teenytinyllama.serving.generation_request import Job
from teenytinyllama.serving.http_messages import (
    Disconnected,
    Exchange,
    Receive,
    Refusal,
    Scope,
    Send,
)
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.protocol import Ask, chat_ask, completion_ask
from teenytinyllama.serving.scheduler import Busy, Engine
from teenytinyllama.serving.search.search_service import Lookup
from teenytinyllama.serving.server_metrics import Metrics

logger = logging.getLogger(__name__)


if TYPE_CHECKING:  # only where a GGUF file is served
    from teenytinyllama.inference.llama_cpp import GgufChatModel

PAGE_DIR = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("chat", "explore", "quotes", "words")
    },
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
RETRY_AFTER_S = 2
SHORT_BODY_BYTES = 8 * 1024  # read in well under a millisecond

Handler = Callable[[Exchange], Awaitable[None]]


class App:
    """An ASGI application over loaded models; `engine` must run."""

    def __init__(
        self,
        chat_models: Sequence[ChatModel | GgufChatModel],
        limits: Limits,
        guard: Guard,
        lookup: Lookup | None = None,
    ) -> None:
        self.limits, self.guard = limits, guard
        self.lookup = lookup
        self.metrics = Metrics()
        self.chat_models = {chat_model.name: chat_model for chat_model in chat_models}
        self.engine = Engine(chat_models, limits, self.metrics)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reader")
        self._started_at = int(time.time())
        self._weights = {name: _stamp(t.folder) for name, t in self.chat_models.items()}
        self._page = {
            path: ((PAGE_DIR / name).read_bytes(), kind)
            for path, (name, kind) in PAGE_FILES.items()
        }
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/models": {"GET": self._models},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completion},
            "/api/quotes": {"POST": self._quotes},
            "/api/examples": {"POST": self._examples},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            **{path: {"GET": self._file} for path in self._page},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Whatever it holds, it is answered, and nothing else suffers."""
        started_at = time.monotonic()
        exchange = Exchange(scope, receive, send, self.limits)
        with suppress(Disconnected):
            try:
                await self._handle(exchange)
            except Refusal as refusal:
                if not exchange.status:
                    await exchange.refuse(refusal)
            except Disconnected:
                exchange.status = exchange.status or 499
            except Exception as error:
                logger.info(f"serve: error[bug] {traceback.format_exc()}")
                message = f"a fault of the server ({type(error).__name__}); its log says more"
                if not exchange.status:
                    await exchange.refuse(Refusal(500, "bug", message))
        path = exchange.path if exchange.path in self._routes else "other"
        self.metrics.observe_request(path, exchange.status, time.monotonic() - started_at)

    async def _handle(self, exchange: Exchange) -> None:
        self.guard.check_site(exchange)
        handlers = self._routes.get(exchange.path)
        if handlers is None:
            message = f"there is nothing at {ascii(exchange.path)[:80]}"
            raise Refusal(404, "path", message, field="path")
        if exchange.path not in self._page and exchange.path != "/health":
            self.guard.check_key(exchange)
        method = "GET" if exchange.method == "HEAD" else exchange.method
        if method not in handlers:
            allowed = ", ".join(handlers)
            message = f"{ascii(exchange.method)[:20]} is not possible here, only {allowed}"
            raise Refusal(405, "method", message, field="method", headers={"allow": allowed})
        await handlers[method](exchange)

    # OpenAI's API

    async def _models(self, exchange: Exchange) -> None:
        rows = [
            {
                "id": name,
                "object": "model",
                "created": self._started_at,
                "owned_by": "teenytinyllama",
                "max_model_len": chat_model.max_positions,
                "answers": chat_model.answers,
            }
            for name, chat_model in self.chat_models.items()
        ]
        await exchange.answer_json({"object": "list", "data": rows})

    async def _chat(self, exchange: Exchange) -> None:
        values = await exchange.read_json()
        limit = self.limits.max_messages
        ask = await self._read(
            exchange, lambda: chat_ask(values, self.chat_models, max_messages=limit)
        )
        await self._generate(exchange, ask, is_chat=True)

    async def _completion(self, exchange: Exchange) -> None:
        values = await exchange.read_json()
        ask = await self._read(exchange, lambda: completion_ask(values, self.chat_models))
        await self._generate(exchange, ask, is_chat=False)

    async def _read(self, exchange: Exchange, read: Callable[[], Ask]) -> Ask:
        """Check a request; a long one beside the loop, two at a time, so that others go on.

        Where GGUF files are served, each one: llama.cpp has to be asked what is a token.
        """
        if exchange.num_body_bytes <= SHORT_BODY_BYTES and not self.engine.solos:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _generate(self, exchange: Exchange, ask: Ask, *, is_chat: bool) -> None:
        """Put the question in line and answer it; a client that goes away cancels it."""
        loop = asyncio.get_running_loop()
        whole = not ask.streams
        job = Job(ask.chat_model.name, ask.request, ask.text, loop, whole=whole, stops=ask.stops)
        try:
            self.engine.submit(job)
        except Busy:
            raise _busy("too many requests wait") from None
        answer = Answer(ask, job, is_chat=is_chat)
        telling = asyncio.create_task(answer.tell(exchange))
        gone = asyncio.create_task(exchange.wait_for_disconnect())
        try:
            await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
            if not telling.done():
                raise Disconnected
            telling.result()
        finally:
            self.engine.cancel(job)
            for task in (telling, gone):
                task.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)

    # The chat data

    async def _examples(self, exchange: Exchange) -> None:
        await self._look(exchange, "examples")

    async def _quotes(self, exchange: Exchange) -> None:
        await self._look(exchange, "quotes")

    async def _look(self, exchange: Exchange, what: str) -> None:
        values = await exchange.read_json()
        if self.lookup is None:
            message = "this server knows no chat data; start it with --data FILE"
            raise Refusal(404, "no-chat-data", message)
        ready = self.lookup.ready
        if ready is None:
            raise _busy(self.lookup.state)
        find = ready.examples if what == "examples" else ready.quotes
        await exchange.answer_json(await asyncio.to_thread(find, values))

    # The machine stage

    async def _health(self, exchange: Exchange) -> None:
        models = {
            name: "as loaded"
            if _stamp(chat_model.folder) == self._weights[name]
            else "changed on disk"
            for name, chat_model in self.chat_models.items()
        }
        alive = self.engine.alive
        answer = {
            "status": "ok" if alive else "the generating thread has ended",
            "version": __version__,
            "models": models,
            "chat_data": self.lookup.state if self.lookup else "none",
            "needs_key": self.guard.asks_for_key,
        }
        await exchange.answer_json(answer, status=200 if alive else 503)

    async def _metrics(self, exchange: Exchange) -> None:
        gauges = {
            "active_requests": ("Answers being generated.", float(self.engine.num_active)),
            "waiting_requests": ("Requests in line.", float(self.engine.num_waiting)),
        }
        text = self.metrics.as_text(gauges)
        await exchange.answer(text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _file(self, exchange: Exchange) -> None:
        body, kind = self._page[exchange.path]
        await exchange.answer(body, kind, headers={"cache-control": "no-cache"})


class Answer:
    """One answer in OpenAI's words, whole or as a stream of events."""

    def __init__(self, ask: Ask, job: Job, *, is_chat: bool) -> None:
        self.ask, self.job, self.is_chat = ask, job, is_chat
        kind = "chat.completion" if is_chat else "text_completion"
        self._kind = f"{kind}.chunk" if is_chat and ask.streams else kind
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid4().hex}"
        self._created = int(time.time())

    async def tell(self, exchange: Exchange) -> None:
        """Give the answer as it comes, or once it is whole. Raises Refusal where it fails."""
        if self.ask.streams:
            await self._tell_events(exchange)
            return
        text, finish = "", None
        try:
            async for piece in self.job.stream():
                text, finish = text + piece.text, piece.finish
        except UserError as error:
            raise Refusal(500, error.code, f"{error.where}: {error.what}") from error
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        await exchange.answer_json(self._frame([choice]) | {"usage": self._usage()})

    async def _tell_events(self, exchange: Exchange) -> None:
        unsaid: dict[str, Any] = {"usage": None} if self.ask.include_usage else {}
        await exchange.begin_events()
        if self.is_chat:
            first = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            await exchange.send_event(self._frame([{"index": 0, **first}]) | unsaid)
        try:
            async for piece in self.job.stream():
                for choice in self._choices(piece.text, piece.finish):
                    await exchange.send_event(self._frame([choice]) | unsaid)
        except Exception as error:  # the head is sent: it can only be told inside the stream
            code = error.code if isinstance(error, UserError) else "bug"
            await exchange.send_event(Refusal(500, code, "generation failed").as_json())
            await exchange.end_events()
            return
        if self.ask.include_usage:
            await exchange.send_event(self._frame([]) | {"usage": self._usage()})
        await exchange.send_event("[DONE]")
        await exchange.end_events()

    def _choices(self, text: str, finish: str | None) -> list[dict[str, Any]]:
        """The piece's words, and apart from them why it ended."""
        rows: list[dict[str, Any]] = []
        if text:
            words = {"delta": {"content": text}} if self.is_chat else {"text": text}
            rows.append({"index": 0, **words, "finish_reason": None})
        if finish is not None:
            end: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
            rows.append({"index": 0, **end, "finish_reason": finish})
        return rows

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": self._kind,
            "created": self._created,
            "model": self.ask.chat_model.name,
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        prompt, new = len(self.ask.request.prompt), self.job.num_given
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
        }


def _busy(message: str) -> Refusal:
    return Refusal(
        503,
        "busy",
        f"{message}; try again in {RETRY_AFTER_S} s",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """What tells whether the files of a model (or its one file) are those that were loaded."""
    rows = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else [folder]:
        with suppress(OSError):
            stat = path.stat()
            rows.append((path.name, stat.st_size, stat.st_mtime_ns))
    return rows
