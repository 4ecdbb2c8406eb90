"""Features of words and of pairs of neighbours."""

from __future__ import annotations

import numpy as np

from teenytinyllama.stages.corpus.filters.hashed_words import BITS, words_and_pairs
from teenytinyllama.stages.corpus.filters.word_table import hash_word


def test_pairs_stay_within_one_owner_and_keep_their_order() -> None:
    hashes = np.array([hash_word(word) for word in ("a", "casa", "casa", "a")], dtype=np.uint64)
    owners, features = words_and_pairs(np.array([0, 0, 1, 1]), hashes)
    assert owners.tolist() == [0, 0, 1, 1, 0, 1]
    assert features.min() >= 0
    assert features.max() < 1 << BITS
    a, casa, again, other, forward, backward = features.tolist()
    assert (a, casa) == (other, again)
    assert len({a, casa, forward, backward}) == 4
