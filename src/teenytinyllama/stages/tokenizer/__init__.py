"""ROOM tokenizer: documents to a vocabulary (paper 3.3, Table 1)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from teenytinyllama.context import RoomContext
from teenytinyllama.formats.documents import Split, read_documents
from teenytinyllama.formats.encoding import load_tokenizer
from teenytinyllama.formats.manifest import Outcome
from teenytinyllama.progress import Progress
from teenytinyllama.recipe import TokenizerSettings
from teenytinyllama.stages.tokenizer.convert import prove_equal, write_files
from teenytinyllama.stages.tokenizer.measure import measure_sources
from teenytinyllama.stages.tokenizer.train import count_words, train

MAX_DOCUMENTS_COMPARED = 2_000
MAX_DOCUMENTS_MEASURED = 2_000


def run(
    *, settings: TokenizerSettings, context: RoomContext, out_dir: Path, corpus_dir: Path
) -> Outcome:
    """Train a vocabulary on the training documents and write it in both common forms.

    Leaves `tokenizer.model` and the Hugging Face files, proven equal on the run's own text. The
    figures are those of Table 1, taken on held-out documents.
    """
    sample = _Sample(corpus_dir, settings.max_training_bytes)
    with Progress("tokenizer: count words", total=sample.num_bytes_kept / 1e6, unit="MB") as work:
        counts = count_words(_watched(sample.texts(), work))
    with Progress("tokenizer: train", unit="words") as work:
        model = train(counts, settings)
        work.advance(len(counts))
    write_files(model, out_dir)
    encoder = load_tokenizer(out_dir)
    compared = prove_equal(model, out_dir, _texts(corpus_dir, "train", MAX_DOCUMENTS_COMPARED))
    heldout = islice(read_documents(corpus_dir, "heldout"), MAX_DOCUMENTS_MEASURED)
    return Outcome(
        counts={
            "documents_read": sample.num_documents_read,
            "documents_trained_on": sample.num_documents_kept,
            "bytes_read": sample.num_bytes_read,
            "bytes_trained_on": sample.num_bytes_kept,
            "different_words": len(counts),
            "vocab_size": encoder.vocab_size,
            **compared,
        },
        figures=measure_sources(heldout, encoder),
    )


class _Sample:
    """Documents spread evenly over the corpus, together at most `max_bytes` of text."""

    def __init__(self, corpus_dir: Path, max_bytes: int) -> None:
        self.corpus_dir = corpus_dir
        sizes = [document.num_bytes for document in read_documents(corpus_dir, "train")]
        self.num_documents_read, self.num_bytes_read = len(sizes), sum(sizes)
        self._kept = bytearray(len(sizes))
        self.num_documents_kept = self.num_bytes_kept = 0
        seen = 0
        for index, size in enumerate(sizes):
            seen += size
            # Keep up with the share of the text that has gone by, never ahead of it.
            if (self.num_bytes_kept + size) * self.num_bytes_read <= seen * max_bytes:
                self._kept[index] = 1
                self.num_documents_kept += 1
                self.num_bytes_kept += size

    def texts(self) -> Iterator[str]:
        """The texts kept, in corpus order."""
        documents = read_documents(self.corpus_dir, "train")
        for keep, document in zip(self._kept, documents, strict=True):
            if keep:
                yield document.text


def _texts(corpus_dir: Path, split: Split, at_most: int) -> Iterator[str]:
    for document in islice(read_documents(corpus_dir, split), at_most):
        yield document.text


def _watched(texts: Iterator[str], work: Progress) -> Iterator[str]:
    for text in texts:
        yield text
        work.advance(len(text.encode("utf-8")) / 1e6)
