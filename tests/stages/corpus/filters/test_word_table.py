"""Words as arrays equal words as strings."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from teenytinyllama.languages.segmentation import has_unspaced_letters
from teenytinyllama.stages.corpus.filters.word_table import (
    FAST_WORD,
    PUNCTUATION_MARKS,
    SpacyCuts,
    hash_word,
    read_words,
    words_of,
)
from teenytinyllama.synthetic import dataset as synthetic

LINE = "— Não, Sr. João! Disse-me às 10h30 (R$ 1.234,56) d'água... #1\u00a0http://a.pt/b?c=1 :-) xD"


def random_text(rng: random.Random) -> str:
    pools = [
        "aéÇb",
        " \n\t\u2003\x1f",
        ".,;:-'’!?…«»()",
        "0123456789½²",
        "_#@/\\",
        "漢字😀\u0301\u200b\ufeff",
        "ชาวประมงไปที่កសិករ្𠀀𠀁\ufe00カー々〇ᨲᩫ᩠ᩅ",
    ]
    weights = [10, 4, 4, 2, 1, 1, 1]
    chosen = rng.choices(pools, weights, k=rng.randint(0, 80))
    return "".join(rng.choice(pool) for pool in chosen)


def check(texts: list[str], expected: list[list[str]], rule: str) -> None:
    table = read_words(texts, rule, "pt")
    flat = [word for words in expected for word in words]
    assert np.diff(table.first).tolist() == [len(words) for words in expected]
    assert table.lengths.tolist() == [len(word) for word in flat]
    assert table.hashes.tolist() == [hash_word(word) for word in flat]
    assert table.letters.tolist() == [any(c.isalpha() for c in word) for word in flat]
    assert table.solid.tolist() == [any(c not in PUNCTUATION_MARKS for c in w) for w in flat]


def test_fast_words_of_a_line() -> None:
    assert FAST_WORD.findall("Guarda-chuva d'água, 1.234,56… (sim!)") == [
        "Guarda-chuva", "d'água", ",", "1.234,56", "…", "(", "sim", "!", ")",
    ]  # fmt: skip


def test_fast_arrays_equal_the_regular_expression() -> None:
    rng = random.Random(0)
    texts = [LINE, "", *(random_text(rng) for _ in range(500))]
    check(texts, [words_of(text, "fast", "pt") for text in texts], "fast")
    spaced = [text for text in texts if not has_unspaced_letters(text)]
    assert len(spaced) > 100
    check(spaced, [FAST_WORD.findall(text) for text in spaced], "fast")


def test_spacy_arrays_equal_spacys_tokens() -> None:
    spacy = pytest.importorskip("spacy", reason="pip install 'teenytinyllama[spacy]'")
    tokenizer = spacy.blank("pt").tokenizer
    rng = random.Random(1)
    texts = [LINE, *(random_text(rng) for _ in range(500))]
    expected = [[t.text for t in tokenizer(text) if t.text.strip()] for text in texts]
    check(texts, expected, "spacy")
    assert [words_of(text, "spacy", "pt") for text in texts] == expected


def test_full_cache_of_chunks_changes_nothing() -> None:
    pytest.importorskip("spacy", reason="pip install 'teenytinyllama[spacy]'")
    large, small = SpacyCuts("pt"), SpacyCuts("pt", max_chunks=3)
    chunks = LINE.split()
    assert small.of(chunks) == large.of(chunks) == small.of(chunks)
    assert small.of(chunks[:2]) == large.of(chunks[:2])


@cache
def stories(language: str) -> list[str]:
    return [one.text for one in synthetic.documents(num_documents=150, language=language)]


def test_vowel_sign_does_not_split_a_bengali_word() -> None:
    assert FAST_WORD.findall("বাংলা ভাষা, র\u200d্যাব আর ক্ষমা।") == [
        "বাংলা", "ভাষা", ",", "র\u200d্যাব", "আর", "ক্ষমা", "।",
    ]  # fmt: skip


def test_bengali_arrays_equal_the_regular_expression() -> None:
    texts = ["কী\u200cখবর। \u09be ১,২৩৪", *stories("bn")[:40]]
    table = read_words(texts, "fast", "bn")
    expected = [FAST_WORD.findall(text) for text in texts]
    assert np.diff(table.first).tolist() == [len(words) for words in expected]
    assert table.hashes.tolist() == [hash_word(word) for words in expected for word in words]
