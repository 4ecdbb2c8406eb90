"""Requests for a GGUF file: llama.cpp answers them one after another, in a thread of its own.

What llama.cpp runs cannot share a step with our decoder's rows. Requests are served in order of
arrival; a client that leaves ends its answer at the next token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from teenytinyllama.errors import UserError
from teenytinyllama.serving.generation_request import GenerationRequest, TextDelta
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.server_metrics import ServerMetrics

if TYPE_CHECKING:
    from teenytinyllama.inference.llama_cpp import GgufChatModel

logger = logging.getLogger(__name__)

Deliver = Callable[[list[tuple[GenerationRequest, TextDelta]]], None]


class LlamaCppWorker:
    """The queue of one GGUF file, and the thread that works it off."""

    def __init__(
        self, chat_model: GgufChatModel, limits: Limits, metrics: ServerMetrics, deliver: Deliver
    ) -> None:
        self.chat_model, self.limits, self.metrics = chat_model, limits, metrics
        self.waiting: deque[GenerationRequest] = deque()
        self.active: list[GenerationRequest] = []
        self.ends_now = False
        self._deliver = deliver
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=chat_model.name, daemon=True)

    @property
    def num_active(self) -> int:
        """Requests being answered: 0 or 1."""
        return len(self.active)

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        """Put a request in the queue."""
        with self._wake:
            self.waiting.append(request)
            self._wake.notify()

    def stop(self) -> None:
        """Stop the thread after its answer, and llama.cpp."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=30)
        self.chat_model.close()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self.waiting or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    return
                request = self.waiting.popleft()
                self.active.append(request)
            try:
                self._answer(request)
            except Exception as error:  # the thread must live: only this answer fails
                if not isinstance(error, UserError):
                    logger.exception("serve: generation failed")
                self._deliver([(request, TextDelta("", "error", error))])
            self.active.clear()

    def _answer(self, request: GenerationRequest) -> None:
        sequence, held = request.sequence, ""
        self.metrics.prompt_tokens.inc(len(sequence.prompt))
        stream = self.chat_model.answer(
            sequence.prompt, sequence.max_new_tokens, sequence.sampling, request.stop
        )
        is_first = True
        with closing(stream):
            for text in stream:
                if is_first:
                    self.metrics.first_token.observe(time.monotonic() - request.started_at)
                    is_first = False
                held += text
                if request.cancelled or self._has_timed_out(request):
                    break
                if request.streams:
                    self._deliver([(request, TextDelta(held))])
                    held = ""
        request.num_generated = int(self.chat_model.timings.get("predicted_n", 0))
        self.metrics.generated_tokens.inc(request.num_generated)
        if request.cancelled:
            self.metrics.cancelled.inc()
        else:
            reason = self.chat_model.finish_reason or "length"
            self._deliver([(request, TextDelta(held, reason))])

    def _has_timed_out(self, request: GenerationRequest) -> bool:
        duration_s = time.monotonic() - request.started_at
        return self.ends_now or duration_s > self.limits.max_answer_s
