"""Bits per byte: how many bits a model needs for one byte of held-out text.

Bits per byte can be compared between models with different tokenizers, perplexity per token
cannot. A document longer than the context is scored in windows that overlap by half: every token
after the first (EOS included) is predicted exactly once, with at least half a context before it
where there is that much text.

    document  0 1 2 3 4 5 6 7 8      context 4, so the stride is 2
    window    0 1 2 3                predicts 1 2 3 4
    window        2 3 4 5            predicts         5 6
    window            4 5 6 7        predicts             7 8

Sums are taken per batch in float64, so that the result does not depend on how many windows share a
forward pass. Of each document and window a few numbers are kept, for the interval of the score.
"""

# B windows of a batch, T tokens of a window, K scored positions, V vocabulary

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.progress import Progress

# Windows are sorted by length within groups of this many: batches have little padding, and a
# corpus of any size is streamed.
WINDOWS_PER_GROUP = 2048


class EncodedDocument(NamedTuple):
    """One held-out document as the model sees it (BOS ... EOS), and its length in UTF-8 bytes."""

    ids: NDArray[np.int64]
    num_bytes: int
    source: str = ""


@dataclass
class TextScore:
    """Negative log-likelihood of a text in nats, and its predicted tokens, bytes and documents."""

    nats: float = 0.0
    num_tokens: int = 0
    num_bytes: int = 0
    num_documents: int = 0

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8 text; without a model it is 8.

        >>> TextScore(nats=8 * math.log(2), num_tokens=2, num_bytes=4).bits_per_byte
        2.0
        """
        return self.nats / math.log(2) / self.num_bytes if self.num_bytes else math.nan

    @property
    def perplexity(self) -> float:
        """Perplexity per token: comparable only between models with the same tokenizer."""
        return math.exp(self.nats / self.num_tokens) if self.num_tokens else math.nan

    def add(self, other: TextScore) -> None:
        """Add the sums of another text."""
        self.nats += other.nats
        self.num_tokens += other.num_tokens
        self.num_bytes += other.num_bytes
        self.num_documents += other.num_documents


class DocumentSize(NamedTuple):
    """What a document adds to the text that is scored."""

    source: str
    num_bytes: int
    num_tokens: int


class WindowScore(NamedTuple):
    """Predicted tokens of one window of document number `document`, and their nats."""

    document: int
    num_tokens: int
    nats: float


@dataclass
class HeldoutScore:
    """The score of a set of documents, overall and per source."""

    overall: TextScore = field(default_factory=TextScore)
    by_source: dict[str, TextScore] = field(default_factory=dict)
    documents: list[DocumentSize] = field(default_factory=list)
    windows: list[WindowScore] = field(default_factory=list)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte over all documents."""
        return self.overall.bits_per_byte

    @property
    def perplexity(self) -> float:
        """Perplexity per token over all documents."""
        return self.overall.perplexity

    def by_document(self, source: str | None = None) -> tuple[list[float], list[float]]:
        """Nats and bytes of each document, of one source or of all."""
        nats = [0.0] * len(self.documents)
        for window in self.windows:
            nats[window.document] += window.nats
        kept = [n for n, one in enumerate(self.documents) if source in (None, one.source)]
        return [nats[n] for n in kept], [float(self.documents[n].num_bytes) for n in kept]

    def by_window(self, source: str | None = None) -> tuple[list[float], list[float]]:
        """Nats and bytes of each window; a document's bytes are shared out by tokens."""
        nats, sizes = [], []
        for window in self.windows:
            document = self.documents[window.document]
            if source in (None, document.source):
                nats.append(window.nats)
                sizes.append(document.num_bytes * window.num_tokens / document.num_tokens)
        return nats, sizes


class Window(NamedTuple):
    """Part of one document: `ids[:-1]` are the input, the last `num_scored` of `ids[1:]` count."""

    ids: NDArray[np.int64]
    num_scored: int
    document: int


def cut_windows(
    document: EncodedDocument, context_length: int, number: int = 0
) -> Iterator[Window]:
    """Cut a document into windows that predict each token after the first exactly once.

    >>> ids = np.arange(9)
    >>> [(w.ids.tolist(), w.num_scored) for w in cut_windows(EncodedDocument(ids, 9), 4)]
    [([0, 1, 2, 3, 4], 4), ([2, 3, 4, 5, 6], 2), ([4, 5, 6, 7, 8], 2)]
    """
    last = len(document.ids) - 1  # position of the last token to predict
    stride = max(1, context_length // 2)
    scored_to = 0
    while scored_to < last:
        end = min(last, context_length if scored_to == 0 else scored_to + stride)
        begin = max(0, end - context_length)
        yield Window(document.ids[begin : end + 1], end - scored_to, number)
        scored_to = end


def score_documents(
    model: torch.nn.Module,
    documents: Iterable[EncodedDocument],
    *,
    context_length: int,
    batch_tokens: int,
    num_documents: int | None = None,
    processes: ProcessGroup = ALONE,
) -> HeldoutScore:
    """Score documents with a causal language model, in evaluation mode, where its weights are.

    `batch_tokens` limits the tokens of one forward pass and changes only speed and memory; a
    batch that does not fit into a GPU's memory is halved. With `num_documents` a progress bar is
    shown. The model's training mode is restored afterwards. Several processes share the batches,
    and each returns the score of all documents, the bits of one process.
    """
    score_group = partial(_score_group, model, batch_tokens=batch_tokens, processes=processes)
    score = HeldoutScore()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), _progress(num_documents) as progress:
            group: list[Window] = []
            for document in documents:
                group.extend(cut_windows(document, context_length, len(score.documents)))
                _count(score, document)
                while len(group) >= WINDOWS_PER_GROUP:
                    score_group(group[:WINDOWS_PER_GROUP], score)
                    del group[:WINDOWS_PER_GROUP]
                if progress is not None:
                    progress.advance()
            score_group(group, score)
    finally:
        model.train(was_training)
    for part in score.by_source.values():
        score.overall.add(part)
    return score


def _progress(num_documents: int | None) -> AbstractContextManager[Progress | None]:
    if num_documents is None:
        return nullcontext()
    return Progress("evaluate: held-out", total=num_documents, unit="documents")


def _count(score: HeldoutScore, document: EncodedDocument) -> None:
    part = score.by_source.setdefault(document.source, TextScore())
    part.num_documents += 1
    part.num_bytes += document.num_bytes
    part.num_tokens += (num_tokens := max(0, len(document.ids) - 1))
    score.documents.append(DocumentSize(document.source, document.num_bytes, num_tokens))


def _score_group(
    model: torch.nn.Module,
    group: list[Window],
    score: HeldoutScore,
    *,
    batch_tokens: int,
    processes: ProcessGroup,
) -> None:
    batches = _batches(group, batch_tokens)
    mine = [_nats_or_halves(model, batch) for batch in processes.share(batches)]
    for batch, found in zip(batches, processes.collect(mine), strict=True):
        for window, nats in zip(batch, found, strict=True):
            score.by_source[score.documents[window.document].source].nats += nats
            score.windows.append(WindowScore(window.document, window.num_scored, nats))


def _batches(group: list[Window], batch_tokens: int) -> list[list[Window]]:
    """Longest windows first: too little memory fails at once, not after an hour."""
    group = sorted(group, key=lambda window: -len(window.ids))
    batches = []
    while group:
        size = max(1, batch_tokens // (len(group[0].ids) - 1))
        batches.append(group[:size])
        group = group[size:]
    return batches


def _nats_or_halves(model: torch.nn.Module, batch: list[Window]) -> list[float]:
    try:
        return _nats(model, batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return _nats_or_halves(model, batch[:middle]) + _nats_or_halves(model, batch[middle:])


def _nats(model: torch.nn.Module, batch: list[Window]) -> list[float]:
    """Nats of the scored tokens of each window.

    Windows are padded on the right: a causal model never attends there, so no mask is needed.
    """
    device = next(model.parameters()).device
    length = len(batch[0].ids) - 1
    inputs = torch.zeros(len(batch), length, dtype=torch.long)  # (B, T)
    targets = torch.full((len(batch), length), -100, dtype=torch.long)  # (B, T)
    for row, window in enumerate(batch):
        ids = torch.from_numpy(np.ascontiguousarray(window.ids, dtype=np.int64))
        inputs[row, : len(ids) - 1] = ids[:-1]
        first = len(ids) - 1 - window.num_scored
        targets[row, first : len(ids) - 1] = ids[1 + first :]
    logits = model(input_ids=inputs.to(device), use_cache=False).logits  # (B, T, V)
    nats = []
    for row in range(len(batch)):  # row by row: float32 copies of all logits would not fit
        scored = targets[row] != -100
        nats.append(_cross_entropy(logits[row, scored.to(device)], targets[row, scored]))
    return nats


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Sum of -log p(target) over (K, V) logits: softmax in float32, sum in float64."""
    logits = logits.float()
    chosen = logits.gather(-1, targets.to(logits.device).unsqueeze(-1)).squeeze(-1)  # (K,)
    nats = logits.logsumexp(-1) - chosen
    return float(nats.double().sum())
