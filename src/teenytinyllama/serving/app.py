"""The ASGI application: OpenAI's API, health, metrics, the page, and the search behind it."""

from __future__ import annotations

import asyncio
import base64
import logging
import struct
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import prometheus_client
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from teenytinyllama import __version__
from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import AnyChatModel, ChatModel
from teenytinyllama.serving.access_guard import AccessGuard
from teenytinyllama.serving.api_description import describe_api
from teenytinyllama.serving.completions import CompletionFormat, EventStream
from teenytinyllama.serving.generation_request import Completion
from teenytinyllama.serving.http_messages import (
    HTTPError,
    LimitedRequest,
    busy,
    check_framing,
    check_json,
)
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.protocol import (
    AttributionRequest,
    ExamplesRequest,
    RequestBody,
    find_model,
    parse_body,
    read_chat_request,
    read_completion_request,
    read_embedding_request,
)
from teenytinyllama.serving.scheduler import QueueFull, Scheduler
from teenytinyllama.serving.search.search_service import SearchLoader, SearchService
from teenytinyllama.serving.server_metrics import ServerMetrics

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

PAGE_DIR = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("page", "chat", "explore", "attribution", "words", "api")
    },
    "/docs": ("api.html", "text/html; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
WITHOUT_KEY = {*PAGE_FILES, "/health", "/openapi.json"}
SHORT_BODY_BYTES = 8 * 1024  # parsed in well under a millisecond


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
        self._router = Router(self._routes(), redirect_slashes=False)

    def _routes(self) -> list[Route]:
        def post(path: str, endpoint: Callable[..., Any], *first: Any) -> Route:
            return Route(path, partial(endpoint, *first), methods=["POST"])

        read_chat = partial(read_chat_request, max_messages=self.limits.max_messages)
        return [
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            post("/v1/chat/completions", self._complete, read_chat, True),
            post("/v1/completions", self._complete, read_completion_request, False),
            post("/v1/embeddings", self._embed),
            post("/api/attribution", self._search, AttributionRequest, SearchService.attribution),
            post("/api/examples", self._search, ExamplesRequest, SearchService.examples),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._description),
            *(Route(path, _file(*row)) for path, row in PAGE_FILES.items()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Whatever it holds gets a response and disturbs no other request."""
        started_at = time.monotonic()
        limited = LimitedRequest(scope, receive, send, self.limits)
        scope["app"] = self  # the router then raises its errors
        try:
            self._check(limited.request)
            await self._router(scope, limited.receive, limited.send)
        except ClientDisconnect:
            limited.status = limited.status or 499
        except Exception as error:
            response = _as_http_error(error, limited.request).response()
            if not limited.status:
                with suppress(ClientDisconnect):
                    await response(scope, limited.receive, limited.send)
        path = scope["route"].path if "route" in scope else "other"
        self.metrics.observe_request(path, limited.status, time.monotonic() - started_at)

    def _check(self, request: Request) -> None:
        check_framing(request)
        self.guard.check_site(request)
        if request.scope["path"] not in WITHOUT_KEY:
            self.guard.check_key(request)

    # OpenAI's API

    async def _models(self, request: Request) -> Response:
        rows = [self._about(chat_model) for chat_model in self.chat_models.values()]
        return JSONResponse({"object": "list", "data": rows})

    async def _model(self, request: Request) -> Response:
        found = find_model(request.path_params["name"], self.chat_models)
        return JSONResponse(self._about(found))

    def _about(self, chat_model: AnyChatModel) -> dict[str, Any]:
        return {
            "id": chat_model.name,
            "object": "model",
            "created": self._started_at,
            "owned_by": "teenytinyllama",
            "max_model_len": chat_model.max_positions,
            "answers": chat_model.answers,
        }

    async def _complete(
        self,
        read: Callable[[bytes, Mapping[str, AnyChatModel]], Completion],
        is_chat: bool,
        request: Request,
    ) -> Response:
        completion = await self._read(request, read)
        try:
            self.scheduler.submit(completion.choices)
        except QueueFull:
            raise busy("too many requests wait") from None
        answer = CompletionFormat(completion, is_chat=is_chat)
        if completion.streams:
            return EventStream(answer)
        try:
            return JSONResponse(await _while_connected(request, answer.whole()))
        finally:
            completion.cancel()

    async def _embed(self, request: Request) -> Response:
        fields, chat_model, texts = await self._read(request, read_embedding_request)
        try:
            vectors = await _while_connected(request, self._vectors(chat_model, texts))
        except QueueFull:
            raise busy("too many requests wait") from None
        except UserError as error:
            raise HTTPError(500, error.code, error.what) from error
        is_base64 = fields.encoding_format == "base64"
        rows = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _as_base64(vector) if is_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ]
        num_tokens = sum(map(len, texts))
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return JSONResponse(
            {"object": "list", "data": rows, "model": chat_model.name, "usage": usage}
        )

    async def _vectors(
        self, chat_model: ChatModel, texts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return [await self.scheduler.run(partial(chat_model.embed, ids)) for ids in texts]

    async def _read(
        self, request: Request, read: Callable[[bytes, Mapping[str, AnyChatModel]], Result]
    ) -> Result:
        """Check a request; a long one outside the event loop, two at a time.

        Where GGUF files are served, every one: llama.cpp tokenizes the prompt.
        """
        check_json(request)
        body = await request.body()
        if len(body) <= SHORT_BODY_BYTES and not self.scheduler.workers:
            return read(body, self.chat_models)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._parsers, read, body, self.chat_models)

    # The chat data

    async def _search(
        self, model: type[RequestBody], find: Callable[..., dict[str, Any]], request: Request
    ) -> Response:
        fields = await self._read(request, lambda body, _: parse_body(model, body))
        if self.search is None:
            message = "this server has no chat data; start it with --data FILE"
            raise HTTPError(404, "no-chat-data", message)
        if self.search.service is None:
            raise busy(self.search.state)
        given = fields.model_dump(exclude_none=True)
        return JSONResponse(await asyncio.to_thread(find, self.search.service, **given))

    # Monitoring

    async def _health(self, request: Request) -> Response:
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
        return JSONResponse(state, 200 if alive else 503)

    async def _description(self, request: Request) -> Response:
        return JSONResponse(describe_api(needs_key=self.guard.needs_key))

    async def _metrics(self, request: Request) -> Response:
        kind = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4
        return Response(self.metrics.as_text(), headers={"content-type": kind})


def _file(name: str, kind: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """The handler of one of the page's files, which is read once."""
    body = (PAGE_DIR / name).read_bytes()

    async def respond(request: Request) -> Response:
        return Response(body, headers={"content-type": kind, "cache-control": "no-cache"})

    return respond


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of some work, which ends where the client leaves (ClientDisconnect)."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _as_http_error(error: Exception, request: Request) -> HTTPError:
    """The error to send: what was raised for the client, the router's, or else a bug."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, HTTPException) and error.status_code == 404:
        message = f"there is nothing at {ascii(request.scope['path'])[:80]}"
        return HTTPError(404, "path", message, field="path")
    if isinstance(error, HTTPException) and error.status_code == 405:
        headers = dict(error.headers or {})
        method = ascii(request.method)[:20]
        message = f"{method} is not allowed here, only {headers['Allow']}"
        return HTTPError(405, "method", message, field="method", headers=headers)
    logger.error("serve: error[bug]", exc_info=error)
    message = f"an error of the server ({type(error).__name__}); see its log"
    return HTTPError(500, "bug", message)


def _as_base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _file_stats(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a model's files (or its one file): they differ where it changed."""
    rows = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else [folder]:
        with suppress(OSError):
            stat = path.stat()
            rows.append((path.name, stat.st_size, stat.st_mtime_ns))
    return rows
