"""The ASGI application: OpenAI's API, health, metrics, the page, and the search behind it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from teenytinyllama import __version__
from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import AnyChatModel
from teenytinyllama.serving.access_guard import AccessGuard
from teenytinyllama.serving.generation_request import GenerationRequest
from teenytinyllama.serving.http_messages import (
    ClientDisconnect,
    HTTPError,
    HTTPRequest,
    Receive,
    Scope,
    Send,
)
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.protocol import (
    find_model,
    read_chat_request,
    read_completion_request,
)
from teenytinyllama.serving.scheduler import QueueFull, Scheduler
from teenytinyllama.serving.search.search_service import SearchLoader, SearchService
from teenytinyllama.serving.server_metrics import ServerMetrics

logger = logging.getLogger(__name__)

PAGE_DIR = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("page", "chat", "explore", "attribution", "words")
    },
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
MODEL_ROUTE = "/v1/models/"
RETRY_AFTER_S = 2
SHORT_BODY_BYTES = 8 * 1024  # parsed in well under a millisecond

Handler = Callable[[HTTPRequest], Awaitable[None]]


class App:
    """An ASGI application over loaded models; its `scheduler` has to be started."""

    def __init__(
        self,
        chat_models: Sequence[AnyChatModel],
        limits: Limits,
        guard: AccessGuard,
        search: SearchLoader | None = None,
    ) -> None:
        self.limits, self.guard, self.search = limits, guard, search
        self.metrics = ServerMetrics()
        self.chat_models = {chat_model.name: chat_model for chat_model in chat_models}
        self.scheduler = Scheduler(chat_models, limits, self.metrics)
        self._parsers = ThreadPoolExecutor(2, thread_name_prefix="parser")
        self._started_at = int(time.time())
        self._weights = {name: _file_stats(t.folder) for name, t in self.chat_models.items()}
        self._page = {
            path: ((PAGE_DIR / name).read_bytes(), kind)
            for path, (name, kind) in PAGE_FILES.items()
        }
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/models": {"GET": self._models},
            MODEL_ROUTE: {"GET": self._model},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completion},
            "/api/attribution": {"POST": self._attribution},
            "/api/examples": {"POST": self._examples},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            **{path: {"GET": self._file} for path in self._page},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Whatever it holds gets a response and disturbs no other request."""
        started_at = time.monotonic()
        request = HTTPRequest(scope, receive, send, self.limits)
        with suppress(ClientDisconnect):
            try:
                await self._handle(request)
            except HTTPError as error:
                if not request.status:
                    await request.respond_error(error)
            except ClientDisconnect:
                request.status = request.status or 499
            except Exception as error:
                logger.exception("serve: error[bug]")
                message = f"an error of the server ({type(error).__name__}); see its log"
                if not request.status:
                    await request.respond_error(HTTPError(500, "bug", message))
        route = self._route_of(request.path)
        path = route if route in self._routes else "other"
        self.metrics.observe_request(path, request.status, time.monotonic() - started_at)

    @staticmethod
    def _route_of(path: str) -> str:
        """The route of a path: a model's name may hold slashes."""
        return MODEL_ROUTE if path.startswith(MODEL_ROUTE) else path

    async def _handle(self, request: HTTPRequest) -> None:
        request.check_framing()
        self.guard.check_site(request)
        route = self._route_of(request.path)
        handlers = self._routes.get(route)
        if handlers is None:
            message = f"there is nothing at {ascii(request.path)[:80]}"
            raise HTTPError(404, "path", message, field="path")
        if request.path not in self._page and request.path != "/health":
            self.guard.check_key(request)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in handlers:
            allowed = ", ".join(handlers)
            message = f"{ascii(request.method)[:20]} is not allowed here, only {allowed}"
            raise HTTPError(405, "method", message, field="method", headers={"allow": allowed})
        await handlers[method](request)

    # OpenAI's API

    async def _models(self, request: HTTPRequest) -> None:
        rows = [self._about(chat_model) for chat_model in self.chat_models.values()]
        await request.respond_json({"object": "list", "data": rows})

    async def _model(self, request: HTTPRequest) -> None:
        name = request.path.removeprefix(MODEL_ROUTE)
        await request.respond_json(self._about(find_model(name, self.chat_models)))

    def _about(self, chat_model: AnyChatModel) -> dict[str, Any]:
        return {
            "id": chat_model.name,
            "object": "model",
            "created": self._started_at,
            "owned_by": "teenytinyllama",
            "max_model_len": chat_model.max_positions,
            "answers": chat_model.answers,
        }

    async def _chat(self, request: HTTPRequest) -> None:
        values = await request.read_json()
        limit = self.limits.max_messages
        generation = await self._parse(
            request, lambda: read_chat_request(values, self.chat_models, max_messages=limit)
        )
        await self._generate(request, generation, is_chat=True)

    async def _completion(self, request: HTTPRequest) -> None:
        values = await request.read_json()
        generation = await self._parse(
            request, lambda: read_completion_request(values, self.chat_models)
        )
        await self._generate(request, generation, is_chat=False)

    async def _parse(
        self, request: HTTPRequest, parse: Callable[[], GenerationRequest]
    ) -> GenerationRequest:
        """Check a request; a long one outside the event loop, two at a time.

        Where GGUF files are served, every one: llama.cpp tokenizes the prompt.
        """
        if request.num_body_bytes <= SHORT_BODY_BYTES and not self.scheduler.workers:
            return parse()
        return await asyncio.get_running_loop().run_in_executor(self._parsers, parse)

    async def _generate(
        self, request: HTTPRequest, generation: GenerationRequest, *, is_chat: bool
    ) -> None:
        """Queue the request and send its answer; a client that leaves cancels it."""
        try:
            self.scheduler.submit(generation)
        except QueueFull:
            raise _busy("too many requests wait") from None
        response = CompletionResponse(generation, is_chat=is_chat)
        sending = asyncio.create_task(response.send(request))
        leaving = asyncio.create_task(request.wait_for_disconnect())
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientDisconnect
            sending.result()
        finally:
            self.scheduler.cancel(generation)
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    # The chat data

    async def _examples(self, request: HTTPRequest) -> None:
        await self._search(request, SearchService.examples)

    async def _attribution(self, request: HTTPRequest) -> None:
        await self._search(request, SearchService.attribution)

    async def _search(
        self,
        request: HTTPRequest,
        find: Callable[[SearchService, Mapping[str, Any]], dict[str, Any]],
    ) -> None:
        values = await request.read_json()
        if self.search is None:
            message = "this server has no chat data; start it with --data FILE"
            raise HTTPError(404, "no-chat-data", message)
        if self.search.service is None:
            raise _busy(self.search.state)
        await request.respond_json(await asyncio.to_thread(find, self.search.service, values))

    # Monitoring, and the page's files

    async def _health(self, request: HTTPRequest) -> None:
        models = {
            name: "as loaded"
            if _file_stats(chat_model.folder) == self._weights[name]
            else "changed on disk"
            for name, chat_model in self.chat_models.items()
        }
        alive = self.scheduler.alive
        state: dict[str, Any] = {
            "status": "ok" if alive else "the generating thread has ended",
            "needs_key": self.guard.needs_key,
        }
        if self.guard.knows_key(request):
            state |= {
                "version": __version__,
                "models": models,
                "chat_data": self.search.state if self.search else "none",
            }
        await request.respond_json(state, status=200 if alive else 503)

    async def _metrics(self, request: HTTPRequest) -> None:
        gauges = {
            "active_requests": ("Answers being generated.", float(self.scheduler.num_active)),
            "waiting_requests": ("Requests in the queue.", float(self.scheduler.num_waiting)),
        }
        text = self.metrics.as_text(gauges)
        await request.respond(text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _file(self, request: HTTPRequest) -> None:
        body, kind = self._page[request.path]
        await request.respond(body, kind, headers={"cache-control": "no-cache"})


class CompletionResponse:
    """An answer in OpenAI's format, whole or as a stream of events."""

    def __init__(self, generation: GenerationRequest, *, is_chat: bool) -> None:
        self.generation, self.is_chat = generation, is_chat
        kind = "chat.completion" if is_chat else "text_completion"
        self._kind = f"{kind}.chunk" if is_chat and generation.streams else kind
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid4().hex}"
        self._created = int(time.time())

    async def send(self, request: HTTPRequest) -> None:
        """Send the answer as it is generated, or at its end. Raises HTTPError where it fails."""
        if self.generation.streams:
            await self._send_events(request)
            return
        text, reason = "", None
        try:
            async for delta in self.generation.stream():
                text, reason = text + delta.text, delta.finish_reason
        except UserError as error:
            raise HTTPError(500, error.code, error.what) from error  # `where` may be a path
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        await request.respond_json(self._frame([choice]) | {"usage": self._usage()})

    async def _send_events(self, request: HTTPRequest) -> None:
        no_usage: dict[str, Any] = {"usage": None} if self.generation.include_usage else {}
        await request.start_events()
        if self.is_chat:
            first = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            await request.send_event(self._frame([{"index": 0, **first}]) | no_usage)
        try:
            async for delta in self.generation.stream():
                for choice in self._choices(delta.text, delta.finish_reason):
                    await request.send_event(self._frame([choice]) | no_usage)
        except Exception as error:  # the head is sent: the stream itself has to name the error
            code = error.code if isinstance(error, UserError) else "bug"
            await request.send_event(HTTPError(500, code, "generation failed").as_json())
            await request.end_events()
            return
        if self.generation.include_usage:
            await request.send_event(self._frame([]) | {"usage": self._usage()})
        await request.send_event("[DONE]")
        await request.end_events()

    def _choices(self, text: str, finish_reason: str | None) -> list[dict[str, Any]]:
        """The text and, in a choice of its own, the reason why the answer ended."""
        rows: list[dict[str, Any]] = []
        if text:
            content = {"delta": {"content": text}} if self.is_chat else {"text": text}
            rows.append({"index": 0, **content, "finish_reason": None})
        if finish_reason is not None:
            end: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
            rows.append({"index": 0, **end, "finish_reason": finish_reason})
        return rows

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": self._kind,
            "created": self._created,
            "model": self.generation.model,
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        prompt, new = len(self.generation.sequence.prompt), self.generation.num_generated
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
        }


def _busy(message: str) -> HTTPError:
    return HTTPError(
        503,
        "busy",
        f"{message}; try again in {RETRY_AFTER_S} s",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


def _file_stats(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a model's files (or its one file): they differ where it changed."""
    rows = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else [folder]:
        with suppress(OSError):
            stat = path.stat()
            rows.append((path.name, stat.st_size, stat.st_mtime_ns))
    return rows
