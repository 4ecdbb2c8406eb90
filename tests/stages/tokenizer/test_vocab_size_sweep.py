from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.artifacts.subword_tokenizer import MODEL_NAME
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.tokenizer import vocab_size_sweep as sweep
from teenytinyllama.stages.tokenizer.sentencepiece_training import (
    DocumentSample,
    count_words,
    train_model,
    without_rare_words,
)

MODEL = ModelSettings(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
)


def train_900(corpus_dir: Path) -> bytes:
    counts = count_words(DocumentSample(corpus_dir, "train", 1 << 30).texts())
    common = without_rare_words(counts, 900)
    return train_model(common, TokenizerSettings(vocab_size=900))


def test_truncated_vocabulary_equals_the_small_one_trained(
    small_corpus_dir: Path, small_tokenizer_dir: Path
) -> None:
    truncated = TextEncoder(sweep.truncate_model(train_900(small_corpus_dir), 640))
    trained = TextEncoder((small_tokenizer_dir / MODEL_NAME).read_bytes())
    assert truncated.tokens == trained.tokens
    text = "A raposa Lila viu 12 casas.\n\n— Olá, ação!"
    assert truncated.encode(text) == trained.encode(text) == truncated.encode_with_library(text)


def test_size_too_small_for_all_letters(small_corpus_dir: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary-too-small.*alone are 3\d\d tokens"):
        sweep.truncate_model(train_900(small_corpus_dir), 280)


@pytest.mark.parametrize("model", ["bpe", "byte-level"])
def test_rows_computed_by_hand(
    model: str,
    small_corpus_dir: Path,
    small_tokenizer_dir: Path,
    small_bytes_tokenizer_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = sweep.sweep_vocab_sizes(
        settings=TokenizerSettings(model=model),
        model=MODEL,
        sequence_length=128,
        corpus_dir=small_corpus_dir,
        sizes=(400, 640, 60_000),
    )
    assert "too small for a vocabulary of 60,000" in capsys.readouterr().err
    assert [row.vocab_size for row in rows] == [400, 640]
    small, large = rows
    folder = small_tokenizer_dir if model == "bpe" else small_bytes_tokenizer_dir
    encoder = load_tokenizer(folder)
    texts = list(DocumentSample(small_corpus_dir, "heldout", 1 << 30).texts())
    tokens = sum(len(encoder.encode(text)) for text in texts)
    num_bytes = sum(len(text.encode()) for text in texts)
    assert large.bytes_per_token == num_bytes / tokens > small.bytes_per_token
    assert large.tokens_per_word == tokens / sum(len(text.split()) for text in texts)
    # Two layers: 4 x 64 x 64 for attention, 3 x 64 x 128 for SwiGLU; five norms of 64.
    layers = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 5 * 64
    assert large.embedding_fraction == pytest.approx(2 * 640 * 64 / (2 * 640 * 64 + layers))
    per_token = 6 * (layers - 5 * 64 + 640 * 64) + 12 * 2 * 64 * 128
    assert large.flops_per_byte == pytest.approx(per_token * tokens / num_bytes)
    assert 0 <= small.rare_fraction < large.rare_fraction <= 1
    shown = sweep.format_table(rows, MODEL).splitlines()
    assert len(shown) == 5 and shown[3].split()[0] == "640"


def test_unigram_and_missing_corpus_are_errors(tmp_path: Path) -> None:
    source = {"kind": "storybook"}
    recipe = Recipe.model_validate({"name": "x", "corpus": {"sources": (source,)}})
    with pytest.raises(UserError, match=r"stage-not-run.*ttl corpus"):
        sweep.compare_vocab_sizes(recipe, tmp_path)
    with pytest.raises(UserError, match="vocab-sizes-unigram"):
        sweep.sweep_vocab_sizes(
            settings=TokenizerSettings(model="unigram"),
            model=MODEL,
            sequence_length=128,
            corpus_dir=tmp_path,
        )
