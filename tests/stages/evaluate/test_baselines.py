"""The bigram model by hand-computed numbers, and the compressors."""

from __future__ import annotations

import lzma
import math

import numpy as np
import pytest

from teenytinyllama.stages.evaluate import baselines
from teenytinyllama.stages.evaluate.baselines import compressed_bits_per_byte, train_bigram


def probabilities(model, first: int) -> list[float]:
    pairs = [np.array([first, second]) for second in range(model.vocab_size)]
    return [math.exp(-model.nats(pair)) for pair in pairs]


def test_hand_computed_probabilities():
    """Tokens 0 1 0 1 0 2: bigrams 01 (2), 10 (2), 02 (1). Too few, so every discount is 1/2.

    After 0: c = 3, backoff = (0.5 + 0.5) / 3 = 1/3. Distinct tokens before 0, 1, 2: one each, so
    P(b) = (1 - 0.5) / 3 + (1.5 / 3) / 4 = 7/24, and 1/8 for the unseen token 3.
    """
    model = train_bigram(np.array([0, 1, 0, 1, 0, 2], np.uint16), 4, max_tokens=100)
    assert probabilities(model, 0) == pytest.approx(
        [7 / 72, 1.5 / 3 + 7 / 72, 0.5 / 3 + 7 / 72, 1 / 24]
    )
    assert probabilities(model, 3) == pytest.approx([7 / 24, 7 / 24, 7 / 24, 1 / 8])


def test_probabilities_sum_to_one_with_estimated_discounts():
    rng = np.random.default_rng(0)
    tokens = (rng.zipf(1.3, 5000) % 60).astype(np.uint16)
    model = train_bigram(tokens, 60, max_tokens=10_000)
    for first in range(60):
        assert sum(probabilities(model, first)) == pytest.approx(1)


def test_chunk_size_does_not_change_the_model(monkeypatch):
    rng = np.random.default_rng(1)
    tokens = (rng.zipf(1.5, 3000) % 40).astype(np.uint16)
    whole = train_bigram(tokens, 40, max_tokens=10_000)
    monkeypatch.setattr(baselines, "TOKENS_PER_CHUNK", 170)
    parts = train_bigram(tokens, 40, max_tokens=10_000)
    assert np.array_equal(whole.keys, parts.keys)
    assert np.array_equal(whole.discounted, parts.discounted)


def test_better_than_add_one_smoothing_on_unseen_text():
    rng = np.random.default_rng(2)
    words = rng.zipf(1.4, 40_000) % 300
    train, test = words[:20_000].astype(np.uint16), words[20_000:].astype(np.int64)
    model = train_bigram(train, 300, max_tokens=10**9)
    counts = np.zeros((300, 300))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    share = (counts + 1) / (counts + 1).sum(1, keepdims=True)
    add_one = -np.log(share[test[:-1], test[1:]]).sum()
    assert model.nats(test) < 0.97 * add_one


def test_compressors_read_at_most_the_byte_limit(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_COMPRESSED_BYTES", 1000)
    text = "Era uma vez um gato. " * 40
    found = compressed_bits_per_byte([text, text])
    raw = (text + text).encode()[:1000]
    assert found["num_bytes"] == 1000
    assert found["xz_bits_per_byte"] == 8 * len(lzma.compress(raw, preset=6)) / 1000
    assert compressed_bits_per_byte([]) == {"num_bytes": 0.0}
