"""Words as the search sees them: where they stand, without case and accents, cut to their stems."""

from __future__ import annotations

import tomllib
import unicodedata
from functools import lru_cache
from importlib import resources

from teenytinyllama.languages import word_pattern


def plain(word: str) -> str:
    """A word without case and accents.

    >>> plain("Coração")
    'coracao'
    """
    folded = word.casefold()
    if folded.isascii():
        return folded
    parts = unicodedata.normalize("NFKD", folded)
    return "".join(part for part in parts if not unicodedata.combining(part))


def spans_of(text: str) -> list[tuple[int, int]]:
    """Beginning and end of every word of a text; vowel signs belong to their word.

    >>> spans_of("বাংলা ভাষা")
    [(0, 5), (6, 10)]
    """
    return [match.span() for match in word_pattern().finditer(text)]


class Stemmer:
    """Cuts a language's endings; a language without `stems.toml` keeps its words whole.

    >>> [Stemmer("pt")(plain(word)) for word in ("raposas", "raposa", "florestas", "ao")]
    ['rapos', 'rapos', 'florest', 'ao']
    """

    def __init__(self, language: str) -> None:
        self._endings, self._min_letters = _endings_of(language)

    def __call__(self, word: str) -> str:
        """The stem of a plain word."""
        for size in range(min(7, len(word) - self._min_letters), 0, -1):
            if word[-size:] in self._endings:
                return word[:-size]
        return word


@lru_cache
def _endings_of(language: str) -> tuple[frozenset[str], int]:
    path = resources.files("teenytinyllama.languages") / language / "stems.toml"
    if not path.is_file():
        return frozenset(), 0
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    return frozenset(values["endings"]), int(values["min_letters"])
