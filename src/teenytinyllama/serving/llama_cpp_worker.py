"""A GGUF file's answers: llama.cpp gives them one after another, in a thread of their own.

What llama.cpp runs cannot share a step with our decoder's rows. Clients wait in line and are
served as they came; one that leaves ends its answer at the next piece.
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
from teenytinyllama.serving.generation_request import Job, Piece
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.server_metrics import Metrics

logger = logging.getLogger(__name__)


if TYPE_CHECKING:
    from teenytinyllama.inference.llama_cpp import GgufChatModel


class Solo:
    """One GGUF file's line of jobs, and the thread that answers them."""

    def __init__(
        self,
        chat_model: GgufChatModel,
        limits: Limits,
        metrics: Metrics,
        give: Callable[[list[tuple[Job, Piece]]], None],
    ) -> None:
        self.chat_model, self.limits, self.metrics = chat_model, limits, metrics
        self.waiting: deque[Job] = deque()
        self.jobs: list[Job] = []
        self.hurry = False
        self._give = give
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=chat_model.name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job in the line."""
        with self._wake:
            self.waiting.append(job)
            self._wake.notify()

    def stop(self) -> None:
        """End the thread after its answer, and llama.cpp."""
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
                job = self.waiting.popleft()
                self.jobs.append(job)
            try:
                self._answer(job)
            except Exception as error:  # the thread must live: this answer fails, and says so
                if not isinstance(error, UserError):
                    logger.info(f"serve: generation failed: {type(error).__name__}: {error}")
                self._give([(job, Piece("", "error", error))])
            self.jobs.clear()

    def _answer(self, job: Job) -> None:
        request, held = job.request, ""
        self.metrics.add("prompt_tokens_total", len(request.prompt))
        pieces = self.chat_model.answer(
            request.prompt, request.max_new_tokens, request.sampling, job.stops
        )
        is_first = True
        with closing(pieces):
            for piece in pieces:
                if is_first:
                    self.metrics.observe_first_token(time.monotonic() - job.started_at)
                    is_first = False
                held += piece
                if job.cancelled or self._has_taken_too_long(job):
                    break
                if not job.whole:
                    self._give([(job, Piece(held))])
                    held = ""
        finish = self.chat_model.finish or "length"
        job.num_given = int(self.chat_model.timings.get("predicted_n", 0))
        self.metrics.add("generated_tokens_total", job.num_given)
        if job.cancelled:
            self.metrics.add("cancelled_total")
        else:
            self._give([(job, Piece(held, finish))])

    def _has_taken_too_long(self, job: Job) -> bool:
        return self.hurry or time.monotonic() - job.started_at > self.limits.max_answer_s
