"""The one thread that generates: all conversations of a model advance together, a token a turn.

Requests join when a row is free and leave when they end or their client does; a client that has
gone costs at most the token under way. What one gets does not depend on who else is there.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.generation import TOKENS_PER_READ, Batch, Request
from teenytinyllama.serving.generation_request import Job, Piece
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.llama_cpp_worker import Solo
from teenytinyllama.serving.server_metrics import Metrics

logger = logging.getLogger(__name__)


if TYPE_CHECKING:  # only where a GGUF file is served
    from teenytinyllama.inference.llama_cpp import GgufChatModel

TOKENS_PER_READ_BESIDE_OTHERS = 512
MEMORY_SHARE = 0.5  # of the memory that is free when a model is loaded, for its conversations


class Busy(Exception):  # noqa: N818 (the caller tells the client to come again)
    """The queue is full, or the server is about to stop."""


class Lane:
    """One model's conversations: those that wait and those that are generated together."""

    def __init__(self, chat_model: ChatModel, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.decoder = chat_model.decoder
        self.max_rows = min(limits.max_rows, _rows_that_fit(chat_model.decoder))
        self.hurry = False
        self.waiting: deque[Job] = deque()
        self.jobs: dict[Request, Job] = {}
        self.batch = Batch(self.decoder, self.max_rows)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.jobs)

    def turn(self, waiting: Iterable[Job]) -> list[tuple[Job, Piece]]:
        """Take in the jobs that came, and generate one more token for each row."""
        self.waiting.extend(waiting)
        out: list[tuple[Job, Piece]] = []
        try:
            self._let_go()
            if taken := self._next_to_read():
                self.jobs.update((job.request, job) for job in taken)
                self.metrics.add("prompt_tokens_total", sum(len(j.request.prompt) for j in taken))
                self.batch.admit([job.request for job in taken])
                out += self._collect()
            self.batch.step()
            out += self._collect()
        except Exception as error:  # the thread must live: these answers fail, and say so
            if not isinstance(error, UserError):
                logger.info(f"serve: generation failed: {type(error).__name__}: {error}")
            out += [(job, Piece("", "error", error)) for job in self.jobs.values()]
            self.jobs.clear()
            self.batch = Batch(self.decoder, self.max_rows)
        if not self.jobs and len(self.batch._memory.keys) and not self.batch.active:
            self.batch = Batch(self.decoder, self.max_rows)  # gives its memory back
        return out

    def _let_go(self) -> None:
        """Drop what nobody waits for any more, and end what has taken too long."""
        self.waiting = deque(job for job in self.waiting if not job.cancelled)
        now = time.monotonic()
        for request, job in list(self.jobs.items()):
            if job.cancelled:
                self.batch.cancel(request)
                del self.jobs[request]
                self.metrics.add("cancelled_total")
            elif self.hurry or now - job.started_at > self.limits.max_answer_s:
                self.batch.cancel(request)
                request.finish = "length"

    def _next_to_read(self) -> list[Job]:
        """Jobs that are read in one pass: as many as have a row, bounded in padded tokens.

        Few tokens while others are being answered: they stand still as long as the pass takes.
        """
        taken: list[Job] = []
        width = 0
        limit = TOKENS_PER_READ_BESIDE_OTHERS if self.jobs else TOKENS_PER_READ
        while self.waiting and len(taken) < self.batch.num_free:
            width = max(width, len(self.waiting[0].request.prompt))
            if taken and width * (len(taken) + 1) > limit:
                break
            taken.append(self.waiting.popleft())
        return taken

    def _collect(self) -> list[tuple[Job, Piece]]:
        """What the last pass added to each answer."""
        out = []
        for request, job in list(self.jobs.items()):
            new = request.new_ids[job.num_given :]
            if new and not job.num_given:
                self.metrics.observe_first_token(time.monotonic() - job.started_at)
            job.num_given += len(new)
            self.metrics.add("generated_tokens_total", len(new))
            spoken = job.text
            assert spoken is not None  # only what llama.cpp answers has none
            text = "".join(map(spoken.push, new))
            if spoken.stopped:
                self.batch.cancel(request)
                request.finish = "stop"
            finish = request.finish
            if finish is not None:
                text += spoken.finish()
                del self.jobs[request]
            job.held += text
            if finish is not None or (job.held and not job.whole):
                out.append((job, Piece(job.held, finish)))
                job.held = ""
        return out


class Engine:
    """All models of the server behind one thread, and one more for each GGUF file."""

    def __init__(
        self, chat_models: Sequence[ChatModel | GgufChatModel], limits: Limits, metrics: Metrics
    ) -> None:
        self.limits, self.metrics = limits, metrics
        self.lanes: Mapping[str, Lane] = {
            one.name: Lane(one, limits, metrics)
            for one in chat_models
            if isinstance(one, ChatModel)
        }
        self.solos: Mapping[str, Solo] = {
            one.name: Solo(one, limits, metrics, _hand_over)
            for one in chat_models
            if not isinstance(one, ChatModel)
        }
        self._came: list[Job] = []
        self._wake = threading.Condition()
        self._stopping = self._draining = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to generate."""
        self._thread.start()
        for solo in self.solos.values():
            solo.start()

    def submit(self, job: Job) -> None:
        """Put a job in its model's line. Raises Busy where too many wait."""
        with self._wake:
            if self._draining or self.num_waiting >= self.limits.max_waiting:
                raise Busy
            if job.model in self.solos:
                self.solos[job.model].submit(job)
                return
            self._came.append(job)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """The client is gone: stop before the next token."""
        job.cancelled = True

    @property
    def num_waiting(self) -> int:
        """Jobs without a row."""
        return len(self._came) + sum(len(one.waiting) for one in self._lines())

    @property
    def num_active(self) -> int:
        """Jobs that are being generated."""
        return sum(len(one.jobs) for one in self._lines())

    @property
    def alive(self) -> bool:
        """Whether the threads still work."""
        return self._thread.is_alive() and all(solo.alive for solo in self.solos.values())

    def drain(self) -> None:
        """Take no more jobs; those under way go on."""
        self._draining = True

    def finish_all(self) -> None:
        """End every answer with what it has."""
        for one in self._lines():
            one.hurry = True

    def stop(self) -> None:
        """End the thread after its turn."""
        with self._wake:
            self._stopping = self._draining = True
            self._wake.notify()
        self._thread.join(timeout=30)
        for solo in self.solos.values():
            solo.stop()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._came or any(n.busy for n in self._all())):
                    self._wake.wait()
                if self._stopping:
                    return
                came, self._came = self._came, []
            for name, lane in self.lanes.items():
                mine = [job for job in came if job.model == name]
                if mine or lane.busy:
                    _hand_over(lane.turn(mine))

    def _lines(self) -> Iterable[Lane | Solo]:
        return (*self.lanes.values(), *self.solos.values())

    def _all(self) -> Iterable[Lane]:
        return self.lanes.values()


def _hand_over(pieces: list[tuple[Job, Piece]]) -> None:
    """Give the pieces to the loops that wait for them: one call for each loop."""

    def put() -> None:
        for job, piece in pieces:
            job.pieces.put_nowait(piece)

    if pieces:
        try:
            pieces[0][0].loop.call_soon_threadsafe(put)
        except RuntimeError:  # the loop is closed: the server has stopped
            for job, _ in pieces:
                job.cancelled = True


def _rows_that_fit(decoder: Decoder) -> int:
    """How many conversations of full length fit into half of the free memory; at least one."""
    memory = decoder.new_memory()
    layers, _, heads, _, size = memory.keys.shape
    row_bytes = 2 * layers * heads * size * decoder.max_positions * memory.keys.element_size()
    if decoder.device.type == "cuda":
        import torch

        free = torch.cuda.mem_get_info(decoder.device)[0]
    else:
        free = _available_bytes()
    return max(1, int(free * MEMORY_SHARE) // row_bytes)


def _available_bytes() -> int:
    """Memory that could be had without swapping."""
    path = Path("/proc/meminfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
