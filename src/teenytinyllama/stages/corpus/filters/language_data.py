"""Thresholds, stop words and phrases of one language: `languages/<code>/filters.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any
from unicodedata import normalize

from teenytinyllama.settings.data_preparation import FilterSettings


@dataclass(frozen=True)
class LanguageData:
    """What the filters know of a language."""

    thresholds: dict[str, dict[str, float]]
    stop_words: frozenset[str]
    policy_phrases: tuple[str, ...] = ()
    """Lines with one of these, in lower case, are about the site: C4's rules remove them."""
    citation_marks: tuple[str, ...] = ()
    """Marks that encyclopaedias leave in their text."""
    url_words: frozenset[str] = frozenset()
    """A document with one of these in its URL is dropped."""
    identity_sentences: tuple[str, ...] = ()
    """Harmless sentences about people, to see what a toxicity classifier has learned."""
    labels: frozenset[str] = frozenset()
    """Labels that language identification models use for the language."""
    min_language_probability: dict[str, float] = field(default_factory=dict)
    """Lowest probability that keeps a text, by kind of model."""


@lru_cache(maxsize=8)
def load_language(language: str) -> LanguageData:
    """The data of a language; without thresholds and words where it has no folder."""
    path = files("teenytinyllama.languages").joinpath(language, "filters.toml")
    if not path.is_file():
        return LanguageData(thresholds={}, stop_words=frozenset(), labels=frozenset((language,)))
    data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return LanguageData(
        thresholds=data["thresholds"],
        # Some letters of Indic scripts have two spellings; the corpus keeps NFC's.
        stop_words=frozenset(normalize("NFC", word) for word in data["stop_words"]),
        policy_phrases=tuple(data.get("policy_phrases", ())),
        citation_marks=tuple(data.get("citation_marks", ())),
        identity_sentences=tuple(data.get("identity_sentences", ())),
        url_words=frozenset(data.get("url_words", ())),
        labels=frozenset(data.get("labels", (language,))),
        min_language_probability=dict(data.get("min_language_probability", {})),
    )


def language_data(settings: FilterSettings, language: str) -> LanguageData:
    """The data of a language, with the stop words of the recipe where it names some."""
    data = load_language(language)
    if not settings.stop_words:
        return data
    return replace(data, stop_words=frozenset(settings.stop_words))
