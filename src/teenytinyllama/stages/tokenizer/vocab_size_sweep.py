"""`ttl tokenizer --vocab-sizes`: compare vocabulary sizes on a run's corpus.

A larger vocabulary encodes the same text in fewer tokens, which makes training and inference
cheaper. But its embedding and head take parameters from the layers, and its rarest tokens occur too
seldom to be learnt. BPE vocabularies are nested: the first merges of a large one are a small one.
So only the largest is trained, then truncated, and the comparison costs little more than the stage.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from teenytinyllama.artifacts.manifest import read_manifest
from teenytinyllama.artifacts.subword_tokenizer import FIRST_BYTE_ID
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token, num_parameters
from teenytinyllama.progress import Progress
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.tokenizer.byte_level_bpe import (
    merges_of,
    tokenizer_from_merges,
    train_byte_level,
)
from teenytinyllama.stages.tokenizer.hf_export import NORMAL_PIECE
from teenytinyllama.stages.tokenizer.sentencepiece_training import (
    DocumentSample,
    count_words,
    train_model,
    with_letters,
    with_progress,
    without_rare_words,
)
from teenytinyllama.stages.tokenizer.tokenizer_metrics import EncodingTotals

logger = logging.getLogger(__name__)

SIZES = (2_048, 4_096, 8_192, 16_384, 32_000, 65_536)
MAX_BYTES_MEASURED = 10_000_000
FIRST_MERGE_ID = FIRST_BYTE_ID + 256
MIN_OCCURRENCES = 100
"""A token that occurs less often than this in the training text is rare: it is hardly learnt."""


@dataclass(frozen=True)
class SweepRow:
    """Effect of one vocabulary size on tokenizer and model."""

    vocab_size: int
    tokens_per_word: float
    bytes_per_token: float
    embedding_fraction: float
    """Parameters of embedding and head as a fraction of all."""
    flops_per_byte: float
    """Training FLOPs per byte of text."""
    rare_fraction: float
    """Fraction of learnt tokens that occur fewer than `MIN_OCCURRENCES` times in training."""


def sweep_vocab_sizes(
    *,
    settings: TokenizerSettings,
    model: ModelSettings,
    sequence_length: int,
    corpus_dir: Path,
    sizes: Sequence[int] = SIZES,
) -> list[SweepRow]:
    """One row per size that the corpus can fill, smallest first, measured on held-out text.

    Raises UserError for a unigram model, whose vocabularies are not nested, and if not even the
    smallest size fits.
    """
    if settings.model == "unigram":
        raise UserError(
            "vocab-sizes-unigram",
            "tokenizer.model",
            '"unigram" would have to be trained again for every size',
            '--set tokenizer.model="bpe" (its numbers are within 2 %)',
        )
    sample = DocumentSample(corpus_dir, "train", settings.max_training_bytes)
    with Progress(
        "vocabulary sizes: count words", total=sample.num_bytes_kept / 1e6, unit="MB"
    ) as work:
        counts = count_words(with_progress(sample.texts(), work))
    largest, models = _nested(counts, settings, sizes)
    too_large = ", ".join(f"{size:,}" for size in sizes if size > largest)
    if too_large:
        logger.info(f"the corpus is too small for a vocabulary of {too_large}")
    heldout = DocumentSample(corpus_dir, "heldout", MAX_BYTES_MEASURED)
    train = DocumentSample(corpus_dir, "train", MAX_BYTES_MEASURED, sizes=sample.sizes)
    rows = []
    with Progress("vocabulary sizes: measure", total=len(models), unit="vocabularies") as work:
        for size, vocabulary in models.items():
            encoder, totals = TextEncoder(vocabulary), EncodingTotals()
            for text in heldout.texts():
                totals.add(text, encoder)
            metrics = totals.metrics()
            rows.append(
                SweepRow(
                    vocab_size=size,
                    tokens_per_word=metrics["tokens_per_word"],
                    bytes_per_token=metrics["bytes_per_token"],
                    embedding_fraction=_embedding_fraction(model, size),
                    flops_per_byte=flops_per_token(model, size, sequence_length)
                    / metrics["bytes_per_token"],
                    rare_fraction=_rare_fraction(encoder, train),
                )
            )
            work.advance()
    return rows


def _nested(
    counts: Counter[str], settings: TokenizerSettings, sizes: Sequence[int]
) -> tuple[int, dict[int, bytes]]:
    """The largest size that can be trained, and every vocabulary up to it, by size."""
    for largest in sorted(sizes, reverse=True):
        common = without_rare_words(counts, largest)
        fitting = [size for size in sorted(sizes) if size <= largest]
        try:
            if settings.model == "byte-level":
                merges = merges_of(train_byte_level(common, largest))
                return largest, {
                    size: tokenizer_from_merges(merges[: size - FIRST_MERGE_ID]).to_str().encode()
                    for size in fitting
                }
            model = train_model(common, settings.model_copy(update={"vocab_size": largest}))
            return largest, {size: truncate_model(model, size) for size in fitting}
        except UserError as error:
            if error.code != "vocabulary-too-large" or largest == min(sizes):
                raise
    raise AssertionError("the loop ends by returning or raising")


def truncate_model(model: bytes, vocab_size: int) -> bytes:
    """The SentencePiece BPE that training to `vocab_size` would have given.

    Keeps special tokens, bytes, letters and the first merges. Raises UserError if `vocab_size` is
    too small for all letters.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    is_merge = [p.type == NORMAL_PIECE and len(p.piece) > 1 for p in proto.pieces]
    num_merges = vocab_size - is_merge.count(False)
    if num_merges < 0:
        raise UserError(
            "vocabulary-too-small",
            "tokenizer.vocab_size",
            f"special tokens, bytes and letters alone are {vocab_size - num_merges:,} tokens",
            f"--set tokenizer.vocab_size={vocab_size - num_merges + 1000}",
        )
    kept = []
    for piece, merged in zip(proto.pieces, is_merge, strict=True):
        num_merges -= merged
        if not merged or num_merges >= 0:
            kept.append(piece)
    del proto.pieces[:]
    proto.pieces.extend(kept)
    proto.trainer_spec.vocab_size = vocab_size
    return bytes(proto.SerializeToString(deterministic=True))


def _embedding_fraction(model: ModelSettings, vocab_size: int) -> float:
    return 1 - num_parameters(model, 0) / num_parameters(model, vocab_size)


def _rare_fraction(encoder: TextEncoder, train: DocumentSample) -> float:
    """Fraction of rare tokens, counted in a sample and scaled to all of the training text."""
    seen = np.zeros(encoder.vocab_size, np.int64)
    for text in train.texts():
        seen += np.bincount(encoder.encode_array(text), minlength=encoder.vocab_size)
    scaled = seen * (train.num_bytes_read / max(train.num_bytes_kept, 1))
    return float((scaled[FIRST_MERGE_ID:] < MIN_OCCURRENCES).mean())


def compare_vocab_sizes(recipe: Recipe, run_dir: Path) -> str:
    """The table for a recipe's corpus and model. Raises UserError if there is no corpus yet."""
    corpus_dir = run_dir / "corpus"
    if read_manifest(corpus_dir) is None:
        raise UserError(
            "stage-not-run",
            "ttl tokenizer --vocab-sizes",
            f"reads corpus/manifest.json, which is not in {run_dir}",
            "run `ttl corpus RECIPE` first",
        )
    pretrain = recipe.pretrain
    model = pretrain.model if pretrain else ModelSettings()
    length = pretrain.sequence_length if pretrain else model.max_position_embeddings
    rows = sweep_vocab_sizes(
        settings=with_letters(recipe.tokenizer or TokenizerSettings(), recipe.language),
        model=model,
        sequence_length=length,
        corpus_dir=corpus_dir,
    )
    return format_table(rows, model)


def format_table(rows: Sequence[SweepRow], model: ModelSettings) -> str:
    """The rows as a text table with a legend."""
    sizes = f"{model.num_hidden_layers} layers of width {model.hidden_size}"
    lines = [
        f"vocabulary sizes for {sizes}, measured on held-out text",
        f"{'vocabulary':>10} {'tokens/word':>12} {'bytes/token':>12} {'embedding':>10} "
        f"{'MFLOP/byte':>11} {'rare tokens':>12}",
    ]
    lines += [
        f"{r.vocab_size:>10,} {r.tokens_per_word:>12.3f} {r.bytes_per_token:>12.2f} "
        f"{r.embedding_fraction:>10.1%} {r.flops_per_byte / 1e6:>11.1f} {r.rare_fraction:>12.1%}"
        for r in rows
    ]
    lines.append(
        "embedding: share of the parameters, with the head; "
        f"rare tokens: share that occurs fewer than {MIN_OCCURRENCES} times in the training text"
    )
    return "\n".join(lines)
