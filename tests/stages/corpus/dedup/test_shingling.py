"""Hashed word n-grams, and their band keys."""

from __future__ import annotations

import random

import numpy as np
import pytest

from teenytinyllama.settings.data_preparation import NearDuplicateSettings
from teenytinyllama.stages.corpus.dedup.shingling import (
    BYTES_PER_BLOCK,
    MinHasher,
    Shingler,
    jaccard,
)

WORDS = [f"palavra{n}" for n in range(3000)]


def text_of(seed: int, num_words: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def with_changes(text: str, places: list[int]) -> str:
    words = text.split()
    for place in places:
        words[place] = f"outra{place}"
    return " ".join(words)


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[k : k + 5]) for k in range(len(words) - 4)}


def test_jaccard_equals_that_of_the_sets_of_5_grams() -> None:
    one = text_of(1)
    other = with_changes(one, [20, 90, 91, 150])
    expected = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
    a, b = (np.unique(s) for s in Shingler(5).shingles([one, other]))
    assert (len(a), len(b)) == (len(grams(one)), len(grams(other)))
    assert jaccard(a, b) == pytest.approx(expected)


def test_case_and_punctuation_are_ignored_and_accents_not() -> None:
    same, dressed, bare = Shingler(5).shingles(
        [
            "um pão de açúcar não faz verão",
            "— Um “PÃO” de «Açúcar», não faz\u00a0verão!…",
            "um pao de acucar nao faz verao",
        ]
    )
    assert same.tolist() == dressed.tolist()
    assert not set(same.tolist()) & set(bare.tolist())


def test_shingles_do_not_depend_on_the_other_texts() -> None:
    long = text_of(5, num_words=BYTES_PER_BLOCK // 5)
    texts = [text_of(n, num_words=n % 9) for n in range(60)] + [long, "", "uma", long]
    together = Shingler(5).shingles(texts)
    for text, shingles in zip(texts, together, strict=True):
        assert shingles.tolist() == Shingler(5).shingles([text])[0].tolist()
        words = len(text.split())
        assert len(shingles) == (max(words - 4, 1) if words else 0)
    keys = MinHasher(NearDuplicateSettings()).band_keys(texts)
    alone = [MinHasher(NearDuplicateSettings()).band_keys([text])[0] for text in texts]
    assert (keys == np.array(alone)).all()
