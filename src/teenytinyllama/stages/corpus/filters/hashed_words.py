"""Words and pairs of neighbours as numbers, by hash: what both trained classifiers read."""

from __future__ import annotations

import numpy as np

from teenytinyllama.stages.corpus.filters.word_table import Hashes, Ints

BITS = 18
"""Features: 2 to this many, by hash."""
_PAIR = np.uint64(0xD6E8FEB86659FD93)
_MIX = np.uint64(0xA0761D6478BD642F)


def words_and_pairs(owners: Ints, hashes: Hashes) -> tuple[Ints, Ints]:
    """The owner and the feature of every word, then of every two neighbours of one owner.

    `owners` says which text, or which window, each of the words in `hashes` is in; ascending.
    """
    near = owners[1:] == owners[:-1]
    pairs = (hashes[:-1] * _PAIR + hashes[1:])[near]
    both = np.concatenate([hashes, pairs])
    both = (both ^ (both >> np.uint64(32))) * _MIX
    features = (both >> np.uint64(64 - BITS)).astype(np.int64)
    return np.concatenate([owners, owners[1:][near]]), features
