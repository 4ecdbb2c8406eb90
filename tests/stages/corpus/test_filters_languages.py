"""Galician and Bengali: words, sentences, filters of another script."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.stages.corpus.filters import Chain
from teenytinyllama.stages.corpus.filters.c4_filter import apply_c4
from teenytinyllama.stages.corpus.filters.heuristic_rules import ending_lines
from teenytinyllama.stages.corpus.filters.thresholds import load_language
from teenytinyllama.stages.corpus.filters.word_table import FAST_WORD, hash_word, read_words
from teenytinyllama.synthetic import dataset as synthetic


@cache
def stories(language: str) -> list[str]:
    return [one.text for one in synthetic.documents(num_documents=150, language=language)]


def test_a_vowel_sign_does_not_cut_a_bengali_word() -> None:
    assert FAST_WORD.findall("বাংলা ভাষা, র\u200d্যাব আর ক্ষমা।") == [
        "বাংলা", "ভাষা", ",", "র\u200d্যাব", "আর", "ক্ষমা", "।",
    ]  # fmt: skip


def test_arrays_of_bengali_words_are_the_expression() -> None:
    texts = ["কী\u200cখবর। \u09be ১,২৩৪", *stories("bn")[:40]]
    table = read_words(texts, "fast", "bn")
    expected = [FAST_WORD.findall(text) for text in texts]
    assert np.diff(table.first).tolist() == [len(words) for words in expected]
    assert table.hashes.tolist() == [hash_word(word) for words in expected for word in words]


def test_a_danda_ends_a_sentence() -> None:
    assert ending_lines(["সে এল।", "সে এল"]) == 0.5
    text = "\n".join(["সে আজ বাড়ি এল।"] * 5)
    assert apply_c4(text, load_language("bn"), "sentences") == (None, text)


@pytest.mark.parametrize("language", ["gl", "bn"])
def test_clean_text_stays_and_text_of_another_language_goes(language: str) -> None:
    chain = Chain(FilterSettings(), language)
    reasons = Counter(verdict.reason for verdict in chain.judge(stories(language)))
    assert reasons[None] >= 0.93 * 150
    assert reasons["language"] == 0
    for other in {"pt", "gl", "bn"} - {language}:
        assert {verdict.reason for verdict in chain.judge(stories(other))} == {"language"}


@pytest.mark.parametrize("language", ["gl", "bn"])
def test_rubbish_in_the_language_goes(language: str) -> None:
    chain = Chain(FilterSettings(), language)
    sentence = stories(language)[0].partition("\n")[0]
    menu = "\n".join(sentence.split() * 8)
    verdicts = chain.judge([" ".join([sentence] * 30), menu])
    assert [verdict.reason for verdict in verdicts] != [None, None]
    assert all(verdict.reason not in (None, "language") for verdict in verdicts)


def test_a_language_without_numbers_says_what_to_type() -> None:
    with pytest.raises(UserError) as error:
        Chain(FilterSettings(), "yo")
    assert error.value.code == "language-without-filters"
    assert "--clean-sample" in error.value.fix
    learnt = FilterSettings(thresholds={"gopher_short_doc": 3.0}, families=("quality",))
    assert Chain(learnt, "yo").judge(["ọmọ náà"])[0].reason == "gopher_short_doc"
