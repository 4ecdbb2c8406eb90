"""Thresholds, stop words and phrases of one language: `languages/<code>/filters.toml`."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from unicodedata import normalize

from pydantic import BaseModel

from teenytinyllama.languages.language_codes import identification_labels
from teenytinyllama.settings.data_preparation import FilterSettings


class LanguageData(BaseModel, frozen=True):
    """What the filters know of a language."""

    thresholds: dict[str, dict[str, float]] = {}
    """By word rule and reason."""
    stop_words: frozenset[str] = frozenset()
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
    min_language_probability: dict[str, float] = {}
    """Lowest probability that keeps a text, by kind of model."""


@lru_cache(maxsize=8)
def load_language(language: str) -> LanguageData:
    """The data of a language; without thresholds and words where it has no folder."""
    path = files("teenytinyllama.languages").joinpath(language, "filters.toml")
    data = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # Some letters of Indic scripts have two spellings; the corpus keeps NFC's.
    stop_words = {normalize("NFC", word) for word in data.get("stop_words", ())}
    labels = identification_labels(language)
    return LanguageData.model_validate({"labels": labels, **data, "stop_words": stop_words})


def language_data(settings: FilterSettings, language: str) -> LanguageData:
    """The data of a language, with the stop words of the recipe where it names some."""
    data = load_language(language)
    if not settings.stop_words:
        return data
    return data.model_copy(update={"stop_words": frozenset(settings.stop_words)})
