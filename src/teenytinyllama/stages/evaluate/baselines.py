"""Baselines for held-out bits per byte: a token bigram model and two general compressors.

The bigram model is interpolated Kneser-Ney with three discounts (Chen and Goodman 1998, section
4.1), estimated from the training tokens, so nothing is tuned on held-out text:

    P(b | a)  = max(c(ab) - D(c(ab)), 0) / c(a)  +  backoff(a) * P(b)
    P(b)      = max(n(b) - D(n(b)), 0) / sum n   +  backoff   * 1 / V

`c` counts occurrences, `n(b)` counts the distinct tokens seen before `b`, and `backoff` is the mass
that the discounts set free. Every token has a probability above 0, seen or not.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

TOKENS_PER_CHUNK = 20_000_000
ZSTD_LEVEL = 19
# Both compressors are slow, and beyond this much text their rate hardly changes.
MAX_COMPRESSED_BYTES = 32_000_000

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BigramModel:
    """Probability of a token given the one before it; the module docstring has the formula."""

    vocab_size: int
    keys: Counts  # (num_bigrams,) first * vocab_size + second, ascending
    discounted: Floats  # (num_bigrams,) max(c - D, 0) / c(first)
    backoff: Floats  # (vocab_size,) mass set free by the discounts after each first token
    unigram: Floats  # (vocab_size,) P(b)

    def nats(self, ids: NDArray[np.int64]) -> float:
        """Negative log-probability of all tokens after the first."""
        first, second = ids[:-1], ids[1:]
        if not len(second):
            return 0.0
        wanted = first * self.vocab_size + second
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        seen = np.where(self.keys[at] == wanted, self.discounted[at], 0.0)
        probabilities = seen + self.backoff[first] * self.unigram[second]
        return float(-np.log(probabilities).sum())


def train_bigram(tokens: NDArray[Any], vocab_size: int, *, max_tokens: int) -> BigramModel:
    """Count the first `max_tokens` training tokens (`pack` stores documents in random order)."""
    keys, counts = _count_bigrams(tokens[:max_tokens], vocab_size)
    first, second = keys // vocab_size, keys % vocab_size

    discount = _discounts(counts)
    removed = np.minimum(discount[np.minimum(counts, 3)], counts)
    total = np.bincount(first, weights=counts, minlength=vocab_size)  # (V,)
    free = np.bincount(first, weights=removed, minlength=vocab_size)  # (V,)
    backoff = np.where(total > 0, free / np.maximum(total, 1), 1.0)

    before = np.bincount(second, minlength=vocab_size)  # (V,) distinct tokens seen before b
    discount_before = _discounts(before[before > 0])
    removed_before = np.minimum(discount_before[np.minimum(before, 3)], before)
    all_before = max(int(before.sum()), 1)
    free_before = removed_before.sum() / all_before if before.any() else 1.0
    unigram = (before - removed_before) / all_before + free_before / vocab_size
    return BigramModel(vocab_size, keys, (counts - removed) / total[first], backoff, unigram)


def _count_bigrams(tokens: NDArray[Any], vocab_size: int) -> tuple[Counts, Counts]:
    """Distinct bigrams, ascending, with their counts; merged chunk by chunk."""
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for start in range(0, max(len(tokens) - 1, 0), TOKENS_PER_CHUNK):
        chunk = np.asarray(tokens[start : start + TOKENS_PER_CHUNK + 1]).astype(np.int64)
        new_keys, new_counts = np.unique(chunk[:-1] * vocab_size + chunk[1:], return_counts=True)
        merged, place = np.unique(np.concatenate([keys, new_keys]), return_inverse=True)
        weights = np.concatenate([counts, new_counts])
        counts = np.bincount(place, weights=weights, minlength=len(merged)).astype(np.int64)
        keys = merged
    return keys, counts


def _discounts(counts: NDArray[Any]) -> Floats:
    """Discounts for counts 0, 1, 2 and 3 or more.

    The estimate needs counts of counts 1 to 4. Where a tiny or very regular text lacks one of
    them, 0.5 is taken off every count (plain absolute discounting), which is always proper.
    """
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    absolute = np.array([0.0, 0.5, 0.5, 0.5])
    if min(n1, n2, n3, n4) == 0:
        return absolute
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    usable = (found[1:] > 0).all() and (found[1:] <= [1, 2, 3]).all()
    return found if usable else absolute


def compressed_bits_per_byte(texts: Iterable[str]) -> dict[str, float]:
    """Bits per byte of `zstd -19` and `xz` on the concatenated texts.

    At most the first 32 MB are compressed; `num_bytes` is how many were.
    """
    data = bytearray()
    for text in texts:
        data += text.encode("utf-8")
        if len(data) >= MAX_COMPRESSED_BYTES:
            break
    raw = bytes(data[:MAX_COMPRESSED_BYTES])
    if not raw:
        return {"num_bytes": 0.0}
    zstd = len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(raw))
    xz = len(lzma.compress(raw, preset=6))
    return {
        "zstd_19_bits_per_byte": 8 * zstd / len(raw),
        "xz_bits_per_byte": 8 * xz / len(raw),
        "num_bytes": float(len(raw)),
    }
