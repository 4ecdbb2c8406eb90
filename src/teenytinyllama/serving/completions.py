"""A completion in OpenAI's format: whole, or as a stream of server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from teenytinyllama.errors import UserError
from teenytinyllama.serving.generation_request import Completion
from teenytinyllama.serving.http_messages import HTTPError


class CompletionFormat:
    """How one completion is written."""

    def __init__(self, completion: Completion, *, is_chat: bool) -> None:
        self.completion, self.is_chat = completion, is_chat
        kind = "chat.completion" if is_chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid4().hex}",
            "object": f"{kind}.chunk" if is_chat and completion.streams else kind,
            "created": int(time.time()),
            "model": completion.choices[0].model,
        }

    async def whole(self) -> dict[str, Any]:
        """The answer at its end. Raises HTTPError where it fails."""
        texts = ["" for _ in self.completion.choices]
        reasons: list[str | None] = [None for _ in texts]
        try:
            async for index, delta in self.completion.stream():
                texts[index] += delta.text
                reasons[index] = delta.finish_reason
        except UserError as error:
            raise HTTPError(500, error.code, error.what) from error  # `where` may be a path
        choices = []
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            message = {"role": "assistant", "content": text, "refusal": None}
            content = {"message": message} if self.is_chat else {"text": text}
            choices.append({"index": index, **content, "finish_reason": reason, "logprobs": None})
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as it is generated; an error is the last event."""
        no_usage = {"usage": None} if self.completion.include_usage else {}
        try:
            async for choice in self._choices():
                yield _event({**self._head, "choices": [choice], **no_usage})
        except Exception as error:  # the head is sent: the stream itself has to name the error
            code = error.code if isinstance(error, UserError) else "bug"
            yield _event(HTTPError(500, code, "generation failed").as_json())
            return
        if self.completion.include_usage:
            yield _event({**self._head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    async def _choices(self) -> AsyncIterator[dict[str, Any]]:
        """Each choice's text and, by itself, the reason why it ended."""
        if self.is_chat:
            start = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            for choice in self.completion.choices:
                yield {"index": choice.index, **start}
        end: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        async for index, delta in self.completion.stream():
            if delta.text:
                content = (
                    {"delta": {"content": delta.text}} if self.is_chat else {"text": delta.text}
                )
                yield {"index": index, **content, "finish_reason": None}
            if delta.finish_reason is not None:
                yield {"index": index, **end, "finish_reason": delta.finish_reason}

    def _usage(self) -> dict[str, int]:
        prompt = self.completion.num_prompt_tokens
        new = sum(choice.num_generated for choice in self.completion.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
        }


class EventStream(StreamingResponse):
    """The events of a completion, which is cancelled where the client leaves."""

    def __init__(self, format: CompletionFormat) -> None:
        headers = {"x-accel-buffering": "no"}
        super().__init__(format.events(), headers=headers, media_type="text/event-stream")
        self._completion = format.completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. The completion is cancelled also where none could be sent."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._completion.cancel()


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
