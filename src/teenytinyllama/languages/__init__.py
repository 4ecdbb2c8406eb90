"""Data of each language, one folder per ISO 639 code.

`languages/<code>/prompts.toml` has openings to sample from during training, `letters.toml` the
letters that a vocabulary must have. Other files are read by the stages that need them. A language
without a folder needs none: `ttl new --clean-sample` learns the same from clean text.
"""

from __future__ import annotations

import re
import sys
import tomllib
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import chain

import regex

# The Unicode planes that have combining marks.
_MARKED_PLANES = (range(0x20000), range(0xE0100, 0xE01F0))
MIN_KNOWN_SHARE = 0.8
"""The language filter is left out where it would keep less of the clean text than this."""


@dataclass(frozen=True)
class LanguageProfile:
    """What a clean sample shows of a language; `stages/corpus/filters/calibration.py` learns it."""

    num_documents: int
    thresholds: dict[str, float] = field(default_factory=dict)
    stop_words: tuple[str, ...] = ()
    letters: str = ""
    openings: tuple[str, ...] = ()
    known_fraction: float | None = None
    """Share of the documents identified as the language; None: py3langid does not know it."""
    rival: tuple[str, float] | None = None
    """The other language that most of the sample is taken for, and its share, from 10 %."""
    summary: str = ""
    """One line: its name, script and direction."""

    @property
    def is_identifiable(self) -> bool:
        """Whether py3langid identifies the language well enough to filter by it."""
        return self.known_fraction is not None and self.known_fraction >= MIN_KNOWN_SHARE


@cache
def sentence_ends() -> str:
    """Marks that end a sentence in any script, for a character class: Unicode's, and the ellipsis.

    >>> set(".!?…।॥。！？؟۔፧።៕။") <= set(sentence_ends())
    True
    """
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    marks = regex.findall(r"[\p{Sentence_Break=STerm}\p{Sentence_Break=ATerm}]", everything)
    return re.escape("…" + "".join(marks))


@cache
def mark_class() -> str:
    r"""Combining marks as ranges for a character class: `\w` leaves them out.

    The vowel signs of Bengali, Hindi, Thai or Burmese are such marks: without them the words of
    these scripts would be split.
    """
    points = [
        point
        for point in chain(*_MARKED_PLANES)
        if unicodedata.category(chr(point)) in ("Mn", "Mc", "Me")
    ]
    ranges: list[list[int]] = []
    for point in points:
        if ranges and point == ranges[-1][1] + 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)


@cache
def word_pattern() -> re.Pattern[str]:
    """A pattern for words in any script: letters, digits and marks.

    >>> word_pattern().findall("বাংলা ভাষা, 2 gatos.")
    ['বাংলা', 'ভাষা', '2', 'gatos']
    """
    return re.compile(rf"[\w{mark_class()}\u200c\u200d]+")


def known_languages() -> tuple[str, ...]:
    """Codes of the languages that have a folder.

    >>> known_languages()
    ('bn', 'gl', 'pt')
    """
    found = resources.files(__name__).iterdir()
    return tuple(sorted(one.name for one in found if (one / "filters.toml").is_file()))


def prompts_of(language: str) -> tuple[str, ...]:
    """Openings for samples during training; where none are known an empty one, which means BOS."""
    path = resources.files(__name__) / language / "prompts.toml"
    if not path.is_file():
        return ("",)
    return tuple(tomllib.loads(path.read_text(encoding="utf-8"))["openings"])


def rubric_of(language: str) -> str:
    """What a large model is asked to score a text by, with `{text}`; in English where none is."""
    folder = resources.files(__name__)
    path = folder / language / "rubrics.toml"
    if not path.is_file():
        path = folder / "english_rubrics.toml"
    return str(tomllib.loads(path.read_text(encoding="utf-8"))["quality"]).strip()


def letters_of(language: str) -> str:
    """Letters and marks of the language in NFC, without spaces; empty where none are listed."""
    path = resources.files(__name__) / language / "letters.toml"
    if not path.is_file():
        return ""
    listed = tomllib.loads(path.read_text(encoding="utf-8"))["letters"]
    return unicodedata.normalize("NFC", "".join(listed.split()))


@cache
def byte_premium(language: str) -> float | None:
    """Bytes of a text over those of the same text in English; None where no one has measured it.

    >>> byte_premium("th"), byte_premium("mirandese")
    (2.742, None)
    """
    path = resources.files(__name__) / "byte_premiums.toml"
    found: float | None = tomllib.loads(path.read_text(encoding="utf-8")).get(language)
    return found
