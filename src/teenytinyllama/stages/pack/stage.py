"""Stage pack: documents to token sequences.

Every document becomes BOS ... EOS; all are concatenated in a seeded order, without padding or
truncation. Two passes: encode in corpus order, on all cores, into a temporary file; then copy the
ids of each document into their final order. Memory does not grow with the text, and the result
does not depend on the number of cores.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teenytinyllama.artifacts.documents import Split
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer, tokenizer_file
from teenytinyllama.artifacts.tokens import TokenWriter, write_index
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.pack.document_order import fraction_of_rows_cut, order_documents
from teenytinyllama.stages.pack.parallel_encoding import EncodedSplit, encode_split
from teenytinyllama.stages.pack.phases import (
    check_phases,
    phase_orders,
    phase_table,
    tokens_of_sources,
)

logger = logging.getLogger(__name__)


def run(
    *,
    settings: PackSettings,
    context: StageContext,
    out_dir: Path,
    corpus_dir: Path,
    tokenizer_dir: Path,
) -> StageResult:
    """Write `train.bin`, `heldout.bin`, the document boundaries of both, and `index.json`.

    Raises UserError if a split is empty, or a held-out document is also in the training text.
    """
    encoder = load_tokenizer(tokenizer_dir)
    model = tokenizer_file(tokenizer_dir).read_bytes()
    counts: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    entries: dict[Split, dict[str, Any]] = {}
    heldout_texts: set[bytes] = set()
    for split in ("heldout", "train"):
        encoded = encode_split(corpus_dir, split, model, out_dir / f".{split}.encoded")
        if split == "heldout":
            heldout_texts = set(encoded.text_hashes)
        else:
            _check_disjoint(encoded, heldout_texts, corpus_dir)
        phases = []
        if split == "train" and settings.phases:
            available = tokens_of_sources(encoded.num_tokens, encoded.sources)
            check_phases(settings, available)
            logger.info(f"pack: the phases\n{phase_table(settings, available)}")
            phases = phase_orders(encoded.num_tokens, encoded.sources, settings)
            order = np.concatenate(phases)
        else:
            order = order_documents(
                encoded.num_tokens, encoded.sources, settings, is_train=split == "train"
            )
        entries[split] = _write(encoded, order, split, encoder, out_dir)
        if phases:
            metrics["phases"] = _phase_metrics(encoded, phases, settings)
            entries[split]["phases"] = [
                {name: phase[name] for name in ("share", "num_tokens")}
                for phase in metrics["phases"]
            ]
        encoded.path.unlink()
        for unit in ("tokens", "documents"):
            counts[f"{unit}_{split}"] = entries[split][f"num_{unit}"]
        counts[f"bytes_{split}"] = encoded.num_bytes
        metrics[split] = _metrics(encoded, order, settings.sequence_length)
    write_index(out_dir, encoder.vocab_size, encoder.fingerprint, entries)
    return StageResult(counts=counts, metrics=metrics)


def _check_disjoint(train: EncodedSplit, heldout_texts: set[bytes], corpus_dir: Path) -> None:
    shared = sum(digest in heldout_texts for digest in train.text_hashes)
    if shared:
        raise UserError(
            "heldout-in-train",
            str(corpus_dir),
            f"{shared:,} training documents have the same words as a held-out document",
            "run `ttl corpus RECIPE --redo`",
        )


def _write(
    encoded: EncodedSplit,
    order: NDArray[np.int64],
    split: Split,
    encoder: TextEncoder,
    out_dir: Path,
) -> dict[str, Any]:
    """Copy the documents' ids into their final order."""
    ends = np.cumsum(encoded.num_tokens)
    ids = np.memmap(encoded.path, np.uint32, "r")
    with TokenWriter(out_dir, split, encoder.vocab_size) as writer:
        for index in order:
            end = int(ends[index])
            writer.write(ids[end - encoded.num_tokens[index] : end])
    return writer.entry


def _phase_metrics(
    encoded: EncodedSplit, phases: list[NDArray[np.int64]], settings: PackSettings
) -> list[dict[str, Any]]:
    """What each phase really has: whole documents, a few tokens more than asked for."""
    sources = np.array(encoded.sources)
    return [
        {
            "share": phase.share,
            "num_tokens": int(encoded.num_tokens[order].sum()),
            "num_documents": len(order),
            "tokens_by_source": tokens_of_sources(encoded.num_tokens[order], sources[order]),
        }
        for phase, order in zip(settings.phases, phases, strict=True)
    ]


def _metrics(
    encoded: EncodedSplit, order: NDArray[np.int64], sequence_length: int
) -> dict[str, Any]:
    lengths = encoded.num_tokens
    return {
        "bytes_per_token": encoded.num_bytes / int(lengths.sum()),
        "tokens_per_document": {
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "documents_longer_than_sequence": int((lengths > sequence_length).sum()),
        "fraction_of_rows_cut": fraction_of_rows_cut(lengths[order], sequence_length),
    }
