from __future__ import annotations

from collections import Counter

import pytest

from teenytinyllama.artifacts.conversations import SPECIAL_TOKENS
from teenytinyllama.artifacts.subword_tokenizer import byte_alphabet
from teenytinyllama.stages.tokenizer import byte_level_bpe


@pytest.fixture
def counts() -> Counter[str]:
    return Counter({" rato": 3, " rata": 2, " gato": 7})


def test_vocabulary_is_special_tokens_bytes_and_merges(counts: Counter[str]) -> None:
    tokenizer = byte_level_bpe.train_byte_level(counts, 267)
    tokens = [tokenizer.id_to_token(i) for i in range(267)]
    assert tokens[:263] == [*SPECIAL_TOKENS, *byte_alphabet()]
    assert tokens[263:] == [a + b for a, b in byte_level_bpe.merges_of(tokenizer)]
    assert tokens[263] == "at"  # in all twelve words
    assert tokenizer.encode("").ids == [1]


def test_counts_weigh_as_much_as_repeated_words(
    counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = byte_level_bpe.train_byte_level(counts, 267).to_str()
    monkeypatch.setattr(byte_level_bpe, "WORDS_PER_BATCH", 2)  # words are split over batches
    assert byte_level_bpe.train_byte_level(counts, 267).to_str() == whole
    other = byte_level_bpe.train_byte_level(Counter({" rato": 9, " sapo": 1}), 267)
    assert other.to_str() != whole
