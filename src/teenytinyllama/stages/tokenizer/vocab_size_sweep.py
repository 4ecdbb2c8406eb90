"""Vocabulary size against model size, measured on a run's own corpus.

A larger vocabulary says the same text in fewer tokens, which makes training and answering cheaper;
its embedding and head take parameters from the layers, and its rarest pieces are met too seldom to
be learnt. BPE vocabularies are nested: the first merges of a large one are a small one. One is
trained, at the largest size, and cut; so the whole table costs little more than the stage.
"""

from __future__ import annotations

import json
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
from teenytinyllama.stages.tokenizer.byte_level_bpe import train_byte_level, whole_tokenizer
from teenytinyllama.stages.tokenizer.sentencepiece_training import (
    Sample,
    count_words,
    train_model,
    watched,
    with_letters,
    without_rare_words,
)
from teenytinyllama.stages.tokenizer.tokenizer_metrics import Measure

logger = logging.getLogger(__name__)


SIZES = (2_048, 4_096, 8_192, 16_384, 32_000, 65_536)
MAX_BYTES_MEASURED = 10_000_000
SELDOM = 100
"""A piece that stands fewer times than this in the training text is not learnt, but guessed."""
NORMAL_PIECE = 1


@dataclass(frozen=True)
class Row:
    """What one vocabulary size means for a model."""

    vocab_size: int
    tokens_per_word: float
    bytes_per_token: float
    embedding_fraction: float
    """Share of the model's parameters that are embedding and head, 0 to 1."""
    flops_per_byte: float
    """Training FLOPs for a byte of text: FLOPs of a token over bytes of a token."""
    seldom_fraction: float
    """Share of the pieces that stand fewer than `SELDOM` times in the training text, 0 to 1."""


def trade_off(
    *,
    settings: TokenizerSettings,
    model: ModelSettings,
    sequence_length: int,
    corpus_dir: Path,
    sizes: Sequence[int] = SIZES,
) -> list[Row]:
    """One row per size that the corpus can fill, smallest first; tokens are of held-out text.

    Raises UserError for `unigram`, whose vocabularies are not nested, and where not even the
    smallest size fits.
    """
    if settings.model == "unigram":
        raise UserError(
            "trade-off-unigram",
            "tokenizer.model",
            '"unigram" would have to be trained anew for every size',
            '--set tokenizer.model="bpe", whose numbers are within 2 %',
        )
    sample = Sample(corpus_dir, "train", settings.max_training_bytes)
    with Progress("trade-off: count words", total=sample.num_bytes_kept / 1e6, unit="MB") as work:
        counts = count_words(watched(sample.texts(), work))
    largest, models = _nested(counts, settings, sizes)
    left_out = [size for size in sizes if size > largest]
    if left_out:
        logger.info(
            f"trade-off: the corpus is too small for {', '.join(f'{n:,}' for n in left_out)} pieces"
        )
    heldout = Sample(corpus_dir, "heldout", MAX_BYTES_MEASURED)
    train = Sample(corpus_dir, "train", MAX_BYTES_MEASURED, sizes=sample.sizes)
    rows = []
    with Progress("trade-off: measure", total=len(models), unit="vocabularies") as work:
        for size, vocabulary in models.items():
            encoder, measure = TextEncoder(vocabulary), Measure()
            for text in heldout.texts():
                measure.add(text, encoder)
            metrics = measure.metrics()
            rows.append(
                Row(
                    vocab_size=size,
                    tokens_per_word=metrics["tokens_per_word"],
                    bytes_per_token=metrics["bytes_per_token"],
                    embedding_fraction=_embedding_fraction(model, size),
                    flops_per_byte=flops_per_token(model, size, sequence_length)
                    / metrics["bytes_per_token"],
                    seldom_fraction=_seldom_fraction(encoder, train),
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
        try:
            if settings.model == "byte-level":
                data = json.loads(train_byte_level(common, largest).to_str())
                merges = [(left, right) for left, right in data["model"]["merges"]]
                cut = {
                    size: whole_tokenizer(merges[: size - FIRST_BYTE_ID - 256]).to_str().encode()
                    for size in sorted(sizes)
                    if size <= largest
                }
                return largest, cut
            model = train_model(common, settings.model_copy(update={"vocab_size": largest}))
        except UserError as error:
            if error.code != "vocabulary-too-large" or largest == min(sizes):
                raise
            continue
        return largest, {size: cut_model(model, size) for size in sorted(sizes) if size <= largest}
    raise AssertionError("the loop ends by returning or raising")


def cut_model(model: bytes, vocab_size: int) -> bytes:
    """The SentencePiece BPE of so many pieces that training would have stopped at.

    Special tokens, bytes and single letters stay; of the merges the first ones do. Raises
    UserError where the letters alone are more.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    is_merge = [p.type == NORMAL_PIECE and len(p.piece) > 1 for p in proto.pieces]
    stage = vocab_size - is_merge.count(False)
    if stage < 0:
        raise UserError(
            "vocabulary-too-small",
            "tokenizer.vocab_size",
            f"special tokens, bytes and letters alone are {vocab_size - stage:,} pieces",
            f"--set tokenizer.vocab_size={vocab_size - stage + 1000}",
        )
    kept = []
    for piece, merged in zip(proto.pieces, is_merge, strict=True):
        stage -= merged
        if not merged or stage >= 0:
            kept.append(piece)
    del proto.pieces[:]
    proto.pieces.extend(kept)
    proto.trainer_spec.vocab_size = vocab_size
    return bytes(proto.SerializeToString(deterministic=True))


def _embedding_fraction(model: ModelSettings, vocab_size: int) -> float:
    whole = num_parameters(model, vocab_size)
    return 1 - num_parameters(model, 0) / whole


def _seldom_fraction(encoder: TextEncoder, train: Sample) -> float:
    """Share of pieces seldom met, from a sample of the training text, scaled to all of it."""
    seen = np.zeros(encoder.vocab_size, np.int64)
    for text in train.texts():
        seen += np.bincount(encoder.encode_array(text), minlength=encoder.vocab_size)
    scaled = seen * (train.num_bytes_read / max(train.num_bytes_kept, 1))
    first = FIRST_BYTE_ID + 256
    return float((scaled[first:] < SELDOM).mean())


def show(recipe: Recipe, run_dir: Path) -> str:
    """The table for a recipe's corpus and model. Raises UserError where there is no corpus yet."""
    corpus_dir = run_dir / "corpus"
    if read_manifest(corpus_dir) is None:
        raise UserError(
            "stage-not-run",
            "ttl tokenizer --trade-off",
            f"reads corpus/manifest.json, which is not in {run_dir}",
            "run `ttl corpus RECIPE` first",
        )
    pretrain = recipe.pretrain
    model = pretrain.model if pretrain else ModelSettings()
    length = pretrain.sequence_length if pretrain else model.max_position_embeddings
    rows = trade_off(
        settings=with_letters(recipe.tokenizer or TokenizerSettings(), recipe.language),
        model=model,
        sequence_length=length,
        corpus_dir=corpus_dir,
    )
    return table(rows, model)


def table(rows: Sequence[Row], model: ModelSettings) -> str:
    """The rows as text, with what each column is."""
    sizes = f"{model.num_hidden_layers} layers of width {model.hidden_size}"
    lines = [
        f"vocabulary against model ({sizes}), tokens of held-out text",
        f"{'pieces':>8} {'tokens/word':>12} {'bytes/token':>12} {'in embedding':>13} "
        f"{'MFLOP/byte':>11} {'seldom met':>11}",
    ]
    lines += [
        f"{r.vocab_size:>8,} {r.tokens_per_word:>12.3f} {r.bytes_per_token:>12.2f} "
        f"{r.embedding_fraction:>13.1%} {r.flops_per_byte / 1e6:>11.1f} {r.seldom_fraction:>11.1%}"
        for r in rows
    ]
    lines.append(
        "in embedding: share of the parameters; seldom met: pieces that the training text shows "
        f"fewer than {SELDOM} times"
    )
    return "\n".join(lines)
