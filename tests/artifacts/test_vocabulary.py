"""The vocabulary of a tokenizer folder, with exact scores and bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.artifacts.vocabulary import TokenKind, check_fits, read_vocabulary
from teenytinyllama.errors import UserError


def test_tokens_kinds_and_bytes_of_a_sentencepiece_vocabulary(small_tokenizer_dir: Path) -> None:
    encoder, vocabulary = load_tokenizer(small_tokenizer_dir), read_vocabulary(small_tokenizer_dir)
    assert vocabulary.model == "bpe"
    assert [token.text for token in vocabulary.tokens] == encoder.tokens
    assert [int(token.kind) for token in vocabulary.tokens[:2]] == [2, 3]
    assert sum(token.kind == TokenKind.BYTE for token in vocabulary.tokens) == 256
    known = vocabulary.as_bytes(encoder.vocab_size + 3)
    assert known[encoder.vocab_size :] == [b""] * 3
    text = "A raposa mora na floresta."
    assert b"".join(known[index] for index in encoder.encode(text)) == f" {text}".encode()


def test_a_model_with_fewer_ids_than_tokens_is_an_error(small_tokenizer_dir: Path) -> None:
    vocabulary = read_vocabulary(small_tokenizer_dir)
    check_fits(vocabulary, len(vocabulary.tokens), small_tokenizer_dir)
    with pytest.raises(UserError) as error:
        check_fits(vocabulary, len(vocabulary.tokens) - 1, small_tokenizer_dir)
    assert error.value.code == "tokenizer-other-model"
