"""The data of a language's folder."""

from __future__ import annotations

from teenytinyllama.stages.corpus.filters.language_data import load_language


def test_portuguese_has_thresholds_for_both_word_rules() -> None:
    thresholds = load_language("pt").thresholds
    assert thresholds["fast"].keys() == thresholds["spacy"].keys()
