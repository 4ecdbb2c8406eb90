"""Encode a split on all cores, in corpus order, with a bounded amount of text in memory."""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.documents import Document, Split, document_paths, read_documents
from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.stages.pack.encoding_worker import (
    EncodedBatch,
    EncodingWorker,
    TextOrMessages,
    batch_encoder,
)

CHARACTERS_PER_BATCH = 2_000_000
MAX_PENDING_BATCHES_PER_WORKER = 2
MAX_WORKERS = 16
# For less compressed text than this, starting workers costs more than it saves.
MIN_BYTES_FOR_WORKERS = 4_000_000


@dataclass(frozen=True)
class EncodedSplit:
    """One split as token ids on disk, in corpus order, and facts about each document."""

    path: Path
    num_tokens: NDArray[np.int64]  # (num_documents,)
    sources: list[str]
    text_hashes: list[bytes]
    num_bytes: int


def encode_split(corpus_dir: Path, split: Split, model: bytes, path: Path) -> EncodedSplit:
    """Encode every document of a split as BOS, ids, EOS into `path` (uint32).

    `model` is the content of the vocabulary's file. Raises UserError if the split is empty.
    """
    compressed = sum(p.stat().st_size for p in document_paths(corpus_dir, split))
    cores = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    num_workers = cores if cores > 1 and compressed >= MIN_BYTES_FOR_WORKERS else 0
    num_tokens, hashes, num_bytes = array("q"), [], 0
    sources: list[str] = []

    def texts() -> Iterator[list[TextOrMessages]]:
        for documents in _batches(read_documents(corpus_dir, split)):
            sources.extend(document.source for document in documents)
            yield [document.messages or document.text for document in documents]

    with path.open("wb") as file, Progress(f"pack: encode {split}", unit="MB") as work:
        for batch in _encode_all(texts(), model, num_workers):
            file.write(batch.ids)
            num_tokens.extend(batch.num_tokens)
            hashes.extend(batch.text_hashes)
            num_bytes += batch.num_bytes
            work.advance(batch.num_bytes / 1e6)
    if not num_tokens:
        raise UserError(
            "split-empty",
            str(corpus_dir),
            f"no {split} documents",
            "see the counts in corpus/manifest.json",
        )
    lengths = np.frombuffer(num_tokens, np.int64)
    return EncodedSplit(path, lengths, sources, hashes, num_bytes)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= CHARACTERS_PER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_all(
    texts: Iterator[list[TextOrMessages]], model: bytes, num_workers: int
) -> Iterator[EncodedBatch]:
    """Encode batches with `num_workers` processes (0: in this one), in the order given."""
    if num_workers == 0:
        encode = batch_encoder(model)
        for batch in texts:
            yield encode(batch)
        return
    with ExitStack() as stack:
        idle: SimpleQueue[EncodingWorker] = SimpleQueue()
        for _ in range(num_workers):
            idle.put(stack.enter_context(EncodingWorker(model)))
        # The threads only wait for worker processes.
        pool = stack.enter_context(ThreadPoolExecutor(num_workers))

        def encode_in_worker(batch: list[TextOrMessages]) -> EncodedBatch:
            worker = idle.get()
            try:
                return worker.encode(batch)
            finally:
                idle.put(worker)

        pending: deque[Future[EncodedBatch]] = deque()
        try:
            for batch in texts:
                pending.append(pool.submit(encode_in_worker, batch))
                if len(pending) > MAX_PENDING_BATCHES_PER_WORKER * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
