"""Continuous batching: one thread generates for every request, a token of each in every step.

Requests join a model's batch when a row is free, and leave when they end or their client does; a
client that leaves costs at most the token being computed. A text does not depend on the others.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import psutil

from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import AnyChatModel, ChatModel
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.generation import MAX_PREFILL_TOKENS, DecodingBatch, SequenceState
from teenytinyllama.serving.generation_request import GenerationRequest, TextDelta
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.llama_cpp_worker import LlamaCppWorker
from teenytinyllama.serving.server_metrics import ServerMetrics

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_PREFILL_TOKENS_WHILE_DECODING = 512
MEMORY_FRACTION = 0.5  # of the memory that is free when a model is loaded, for its KV cache


class QueueFull(Exception):  # noqa: N818 (the client is told to come again)
    """Too many requests wait, or the server is draining."""


class BatchScheduler:
    """One model's requests: those that wait, and those that are decoded together."""

    def __init__(self, chat_model: ChatModel, limits: Limits, metrics: ServerMetrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.decoder = chat_model.decoder
        self.max_rows = min(limits.max_rows, _max_rows_in_memory(chat_model.decoder))
        self.ends_now = False
        self.waiting: deque[GenerationRequest] = deque()
        self.active: dict[SequenceState, GenerationRequest] = {}
        self.batch = DecodingBatch(self.decoder, self.max_rows)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.active)

    @property
    def num_active(self) -> int:
        """Requests being decoded."""
        return len(self.active)

    def step(
        self, arrived: Iterable[GenerationRequest]
    ) -> list[tuple[GenerationRequest, TextDelta]]:
        """Queue new requests, prefill what fits, and decode one more token for each row."""
        self.waiting.extend(arrived)
        deltas: list[tuple[GenerationRequest, TextDelta]] = []
        try:
            self._drop_cancelled()
            if taken := self._take_prefill():
                deltas += self._admit(taken)
                deltas += self._collect()
            self.batch.step()
            deltas += self._collect()
        except Exception as error:  # the thread must live: only these answers fail
            deltas += _failed(self.active.values(), error)
            self.active.clear()
        if not self.active:
            self.batch = DecodingBatch(self.decoder, self.max_rows)  # frees the KV cache
        return deltas

    def _admit(self, taken: list[GenerationRequest]) -> list[tuple[GenerationRequest, TextDelta]]:
        """Prefill requests; where that fails, as for lack of memory, only they do."""
        num_tokens = sum(len(request.sequence.prompt) for request in taken)
        self.metrics.prompt_tokens.inc(num_tokens)
        try:
            self.batch.admit([request.sequence for request in taken])
        except Exception as error:
            return _failed(taken, error)
        self.active.update((request.sequence, request) for request in taken)
        return []

    def _drop_cancelled(self) -> None:
        """Drop what no client waits for any more, and end what has taken too long."""
        kept = deque(request for request in self.waiting if not request.cancelled)
        self.metrics.cancelled.inc(len(self.waiting) - len(kept))
        self.waiting = kept
        now = time.monotonic()
        for sequence, request in list(self.active.items()):
            if request.cancelled:
                self.batch.cancel(sequence)
                del self.active[sequence]
                self.metrics.cancelled.inc()
            elif self.ends_now or now - request.started_at > self.limits.max_answer_s:
                self.batch.cancel(sequence)
                sequence.finish_reason = "length"

    def _take_prefill(self) -> list[GenerationRequest]:
        """Requests to prefill in one pass: at most the free rows, bounded in padded tokens.

        Fewer tokens while others are decoded: these wait for the whole pass.
        """
        taken: list[GenerationRequest] = []
        width = 0
        limit = MAX_PREFILL_TOKENS_WHILE_DECODING if self.active else MAX_PREFILL_TOKENS
        while self.waiting and len(taken) < self.batch.num_free:
            width = max(width, len(self.waiting[0].sequence.prompt))
            if taken and width * (len(taken) + 1) > limit:
                break
            taken.append(self.waiting.popleft())
        return taken

    def _collect(self) -> list[tuple[GenerationRequest, TextDelta]]:
        """The text that the last pass added to each answer."""
        deltas: list[tuple[GenerationRequest, TextDelta]] = []
        for sequence, request in list(self.active.items()):
            if sequence.error is not None:
                deltas += _failed([request], sequence.error)
                del self.active[sequence]
                continue
            new_ids = sequence.new_ids[request.num_generated :]
            if new_ids and not request.num_generated:
                self.metrics.first_token.observe(time.monotonic() - request.started_at)
            request.num_generated += len(new_ids)
            self.metrics.generated_tokens.inc(len(new_ids))
            assert request.text is not None, "only a GGUF file's requests have none"
            text = "".join(map(request.text.push, new_ids))
            if request.text.stopped:
                self.batch.cancel(sequence)
                sequence.finish_reason = "stop"
            reason = sequence.finish_reason
            if reason is not None:
                text += request.text.finish()
                del self.active[sequence]
            request.held_text += text
            if reason is not None or (request.held_text and request.streams):
                deltas.append((request, TextDelta(request.held_text, reason)))
                request.held_text = ""
        return deltas


def _failed(
    requests: Iterable[GenerationRequest], error: Exception
) -> list[tuple[GenerationRequest, TextDelta]]:
    """The last deltas of answers that an error ended."""
    if not isinstance(error, UserError):
        logger.error("serve: generation failed", exc_info=error)
    return [(request, TextDelta("", "error", error)) for request in requests]


class Scheduler:
    """All models of the server in one thread, and one more thread for each GGUF file."""

    def __init__(
        self,
        chat_models: Sequence[AnyChatModel],
        limits: Limits,
        metrics: ServerMetrics,
    ) -> None:
        self.limits = limits
        self.batches = {
            one.name: BatchScheduler(one, limits, metrics)
            for one in chat_models
            if isinstance(one, ChatModel)
        }
        self.workers = {
            one.name: LlamaCppWorker(one, limits, metrics, self._deliver)
            for one in chat_models
            if not isinstance(one, ChatModel)
        }
        self._arrived: list[GenerationRequest] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = self._draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)
        metrics.active_requests.set_function(lambda: self.num_active)
        metrics.waiting_requests.set_function(lambda: self.num_waiting)

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        for worker in self.workers.values():
            worker.start()

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queue the requests of one client from its event loop.

        Raises QueueFull where too many wait already.
        """
        self._loop = asyncio.get_running_loop()
        with self._wake:
            self._check_room()
            for request in requests:
                if request.model in self.workers:
                    self.workers[request.model].submit(request)
                else:
                    self._arrived.append(request)
            self._wake.notify()

    async def run(self, job: Callable[[], Result]) -> Result:
        """What a job returns, run by the generating thread between two tokens.

        Raises QueueFull where too many wait, and whatever the job raises.
        """
        future: Future[Result] = Future()
        with self._wake:
            self._check_room()
            self._jobs.append(partial(_run_job, job, future))
            self._wake.notify()
        return await asyncio.wrap_future(future)

    def _check_room(self) -> None:
        if self._draining or self.num_waiting >= self.limits.max_waiting:
            raise QueueFull

    @property
    def num_waiting(self) -> int:
        """Requests without a row, and jobs."""
        queued = len(self._arrived) + len(self._jobs)
        return queued + sum(len(one.waiting) for one in self._queues())

    @property
    def num_active(self) -> int:
        """Requests being generated."""
        return sum(one.num_active for one in self._queues())

    @property
    def alive(self) -> bool:
        """Whether all threads still run."""
        return self._thread.is_alive() and all(one.alive for one in self.workers.values())

    def drain(self) -> None:
        """Accept no more requests; those accepted are finished."""
        self._draining = True

    def end_all(self) -> None:
        """End every answer with the text it has."""
        for one in self._queues():
            one.ends_now = True

    def stop(self) -> None:
        """Stop the threads after their step."""
        with self._wake:
            self._stopping = self._draining = True
            self._wake.notify()
        self._thread.join(timeout=30)
        for worker in self.workers.values():
            worker.stop()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._has_work):
                    self._wake.wait()
                if self._stopping:
                    return
                arrived, self._arrived = self._arrived, []
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                job()
            for name, batch in self.batches.items():
                own = [request for request in arrived if request.model == name]
                if own or batch.busy:
                    self._deliver(batch.step(own))

    @property
    def _has_work(self) -> bool:
        return bool(self._arrived or self._jobs) or any(b.busy for b in self.batches.values())

    def _queues(self) -> Iterable[BatchScheduler | LlamaCppWorker]:
        return (*self.batches.values(), *self.workers.values())

    def _deliver(self, deltas: list[tuple[GenerationRequest, TextDelta]]) -> None:
        """Pass the deltas to the event loop in one call."""

        def put() -> None:
            for request, delta in deltas:
                request.deltas.put_nowait((request.index, delta))

        if deltas:
            assert self._loop is not None, "a request was submitted"
            try:
                self._loop.call_soon_threadsafe(put)
            except RuntimeError:  # the loop is closed: the server has stopped
                for request, _ in deltas:
                    request.cancelled = True


def _run_job(job: Callable[[], Result], future: Future[Result]) -> None:
    if future.set_running_or_notify_cancel():  # else its client has left
        try:
            future.set_result(job())
        except Exception as error:
            future.set_exception(error)


def _max_rows_in_memory(decoder: Decoder) -> int:
    """How many conversations of full length fit into half of the free memory; at least one."""
    if decoder.device.type == "cuda":
        import torch

        free_bytes = torch.cuda.mem_get_info(decoder.device)[0]
    else:
        free_bytes = psutil.virtual_memory().available  # without swapping
    return max(1, int(free_bytes * MEMORY_FRACTION) // decoder.new_cache().max_row_bytes)
