"""A token-bigram model: the plainest language model there is, and the baseline beside ours.

Interpolated Kneser-Ney with the three discounts of Chen and Goodman (1998), estimated from the
training tokens themselves, so nothing is tuned on held-out text:

    P(b | a)  = max(c(ab) - D(c(ab)), 0) / c(a)  +  left(a) * P(b)
    P(b)      = max(n(b) - D(n(b)), 0) / sum n   +  left   * 1 / V

`c` counts occurrences, `n(b)` counts the different tokens seen before `b`, and `left` is the mass
that the discounts set free. Every token gets probability, seen or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS_PER_CHUNK = 20_000_000

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BigramModel:
    """Probabilities of a token given the one before it; see the module for the formula."""

    vocab_size: int
    keys: Counts  # (num_bigrams,) first * vocab_size + second, ascending
    discounted: Floats  # (num_bigrams,) max(c - D, 0) / c(first)
    left: Floats  # (vocab_size,) mass set free by the discounts after each first token
    unigram: Floats  # (vocab_size,) P(b)

    def nats(self, ids: NDArray[np.int64]) -> float:
        """-log probability of all tokens after the first."""
        first, second = ids[:-1], ids[1:]
        if not len(second):
            return 0.0
        wanted = first * self.vocab_size + second
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        seen = np.where(self.keys[at] == wanted, self.discounted[at], 0.0)
        probabilities = seen + self.left[first] * self.unigram[second]
        return float(-np.log(probabilities).sum())


def train_bigram(tokens: NDArray[Any], vocab_size: int, *, max_tokens: int) -> BigramModel:
    """Count the first `max_tokens` training tokens (they are laid down in random order)."""
    keys, counts = _count_bigrams(tokens[:max_tokens], vocab_size)
    first, second = keys // vocab_size, keys % vocab_size

    discount = _discounts(counts)
    removed = np.minimum(discount[np.minimum(counts, 3)], counts)
    total = np.bincount(first, weights=counts, minlength=vocab_size)  # (V,)
    free = np.bincount(first, weights=removed, minlength=vocab_size)  # (V,)
    left = np.where(total > 0, free / np.maximum(total, 1), 1.0)

    before = np.bincount(second, minlength=vocab_size)  # (V,) different tokens seen before b
    discount_before = _discounts(before[before > 0])
    removed_before = np.minimum(discount_before[np.minimum(before, 3)], before)
    all_before = max(int(before.sum()), 1)
    free_before = removed_before.sum() / all_before if before.any() else 1.0
    unigram = (before - removed_before) / all_before + free_before / vocab_size
    return BigramModel(vocab_size, keys, (counts - removed) / total[first], left, unigram)


def _count_bigrams(tokens: NDArray[Any], vocab_size: int) -> tuple[Counts, Counts]:
    """Different bigrams, ascending, with their counts; merged chunk by chunk."""
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
    """Discounts for counts 0, 1, 2 and 3 or more; plain absolute discounting on scant data.

    The estimate needs counts of counts 1 to 4. Where a tiny or very regular text lacks one of
    them, half a count is taken off everything, which is always a proper model.
    """
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    usable = (found[1:] > 0).all() and (found[1:] <= [1, 2, 3]).all()
    return found if usable else np.array([0.0, 0.5, 0.5, 0.5])


def bigram_nats(model: BigramModel, documents: Iterable[NDArray[np.int64]]) -> float:
    """-log probability of every token after the first of each document, in nats."""
    return sum(model.nats(ids) for ids in documents)
