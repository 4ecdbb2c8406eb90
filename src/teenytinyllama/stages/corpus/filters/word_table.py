r"""Words of many texts at once, as arrays: what the rules count.

Texts become code points (one numpy array for a whole batch), each code point a class by one table
lookup, and words runs of classes. No string is made for a word: its length, its class and a 64-bit
hash of its characters are enough for every rule. About 10 ns per character.

Two word rules. `fast` is ours: `\w+(?:[-'’.,]\w+)*|[^\w\s]`, where `\w` includes combining marks
such as the vowel signs of Bengali and Hindi; in scripts without spaces it is applied between the
borders that `languages.segmentation` finds. `spacy` gives the tokens of `spacy.blank(language)`,
which is what datatrove counts: a chunk of letters is one token, any other chunk between white space
is split by spaCy once and cached.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from teenytinyllama.errors import missing_extra
from teenytinyllama.languages import mark_class
from teenytinyllama.languages.segmentation import (
    UNSPACED_LETTERS,
    ZERO_WIDTH_SPACE,
    separate_words,
    word_borders,
)

WordRule = Literal["fast", "spacy"]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

# Classes of a code point; one may be several.
SPACE, WORD, LETTER, SOLID, CONNECTOR, UNSPACED = (np.uint8(1 << bit) for bit in range(6))

_IN_WORD = rf"[\w{mark_class()}]"
# Between two letters; the last two are invisible and say how Indic letters join.
_CONNECTORS = "-'’.,\u200c\u200d"
FAST_WORD = re.compile(rf"{_IN_WORD}+(?:[{_CONNECTORS}]{_IN_WORD}+)*|[^\w\s{mark_class()}]")
"""The word rule `fast` as a regular expression, for the text that `separate_words` gives.

The arrays below give the same words."""

# Code points in hexadecimal. The two lists are datatrove's PUNCTUATION and TERMINAL_PUNCTUATION:
# a word of only these is not counted by the rules on word length and number of words.
_PUNCTUATION = (
    "0-8 B-1F 21-2F 3A-40 5B-60 7B-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA "
    "3001-3002 3008-300D 3010-3011 FF01 FF05 FF08-FF09 FF0C FF0E FF11 FF1A-FF1B FF1F FF5E"
)
_TERMINAL = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E "
    "1735-1736 17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E "
    "1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 "
    "A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F "
    "FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 "
    "111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 "
    "11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 "
    "11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"
)


def _code_points(ranges: str) -> list[int]:
    points: list[int] = []
    for item in ranges.split():
        low, _, high = item.partition("-")
        points.extend(range(int(low, 16), int(high or low, 16) + 1))
    return points


TERMINAL_MARKS = frozenset(map(chr, _code_points(_TERMINAL)))
"""Marks that end a sentence, in all scripts."""
PUNCTUATION_MARKS = frozenset(map(chr, _code_points(_PUNCTUATION))) | TERMINAL_MARKS
"""Characters of which alone no word is made."""


@lru_cache(maxsize=1)
def _class_table() -> npt.NDArray[np.uint8]:
    """Class of every code point; computed once per process, in about 0.2 s."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    count = len(everything)
    table = np.where(np.fromiter(map(str.isspace, everything), bool, count), SPACE, np.uint8(0))
    table |= np.where(np.fromiter(map(str.isalpha, everything), bool, count), LETTER, np.uint8(0))
    for run in re.finditer(rf"{_IN_WORD}+", everything):
        table[run.start() : run.end()] |= WORD
    for run in UNSPACED_LETTERS.finditer(everything):
        table[run.start() : run.end()] |= UNSPACED
    table |= SOLID
    table[[ord(mark) for mark in PUNCTUATION_MARKS]] &= ~SOLID
    table[[ord(mark) for mark in _CONNECTORS]] |= CONNECTOR
    return table


# Hash of a word: sum of (code + 1) * BASE ** (end - position) in 64 bits, so that the hash of two
# concatenated words is hash(a) * BASE ** len(b) + hash(b), and a prefix sum gives any word.
_BASE = 0x9E3779B97F4A7C15
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)


@lru_cache(maxsize=4)
def _powers(base: int, size: int) -> Hashes:
    steps = np.full(size, base, dtype=np.uint64)
    steps[0] = 1
    return np.multiply.accumulate(steps)


def powers(size: int) -> Hashes:
    """BASE ** 0 ... BASE ** (size - 1), or more."""
    return _powers(_BASE, 1 << max(16, size.bit_length()))


def hash_word(word: str) -> int:
    """The hash that `WordTable.hashes` has for this word."""
    value = 0
    for character in word:
        value = (value * _BASE + (ord(character) + 1) * _BASE) % (1 << 64)
    return value


@dataclass(frozen=True)
class WordTable:
    """All words of a batch of texts, in order; row k of each array is word k.

    Words of text d are rows `first[d]` to `first[d + 1]`. `ends` has one row more than there are
    words: characters in the words before row k, white space not counted.
    """

    first: Ints
    documents: Ints
    ends: Ints
    lengths: Ints
    hashes: Hashes
    solid: Flags
    """Has a character that is no punctuation mark."""
    letters: Flags
    """Has a letter."""

    @property
    def num_documents(self) -> int:
        """Number of texts in the batch."""
        return len(self.first) - 1

    def counts(self) -> Ints:
        """Words of each text."""
        return np.diff(self.first)

    def sum_by_document(self, values: npt.NDArray[Any]) -> Ints:
        """Sum of one value per word, over the words of each text."""
        total = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum(values, out=total[1:])
        return np.diff(total[self.first])


def read_words(texts: Sequence[str], rule: WordRule, language: str) -> WordTable:
    """Words of the texts by the rule. Raises UserError where spaCy is asked for and missing."""
    joined = "\n".join(texts) + "\n"
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    classes = _class_table()[codes]
    space = (classes & SPACE) != 0
    text_starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) + 1 for text in texts], out=text_starts[1:])
    if rule == "fast":
        borders = np.empty(0, np.int64)
        if np.bitwise_or.reduce(classes) & UNSPACED:
            unspaced = np.flatnonzero(classes & UNSPACED)
            owners = np.unique(np.searchsorted(text_starts, unspaced, side="right") - 1).tolist()
            found = [word_borders(texts[owner]) + text_starts[owner] for owner in owners]
            borders = np.concatenate(found)
            for owner in owners:
                part = slice(text_starts[owner], text_starts[owner + 1])
                space[part] |= codes[part] == ord(ZERO_WIDTH_SPACE)
        starts, ends = _cut_fast(classes, space, borders)
    else:
        starts, ends = _cut_spacy(joined, classes, space, language)
    first = np.searchsorted(starts, text_starts)
    lengths = ends - starts
    total = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=total[1:])
    return WordTable(
        first=first,
        documents=np.repeat(np.arange(len(texts)), np.diff(first)),
        ends=total,
        lengths=lengths,
        hashes=_hash(codes, starts, ends),
        solid=_any((classes & SOLID) != 0, starts, ends),
        letters=_any((classes & LETTER) != 0, starts, ends),
    )


def _hash(codes: npt.NDArray[np.uint32], starts: Ints, ends: Ints) -> Hashes:
    size = len(codes)
    prefix = np.empty(size + 1, dtype=np.uint64)
    prefix[0] = 0
    terms = (codes + np.uint32(1)) * _powers(_BASE_INVERSE, len(powers(size)))[:size]
    np.cumsum(terms, out=prefix[1:])
    hashes: Hashes = (prefix[ends] - prefix[starts]) * powers(size)[ends]
    return hashes


def _any(flags: Flags, starts: Ints, ends: Ints) -> Flags:
    """Whether any character of each word has the flag."""
    total = np.zeros(len(flags) + 1, dtype=np.int32)
    np.cumsum(flags, out=total[1:])
    found: Flags = total[ends] != total[starts]
    return found


def _cut_fast(classes: npt.NDArray[np.uint8], space: Flags, borders: Ints) -> tuple[Ints, Ints]:
    """Starts and ends of the words of rule `fast`. The last character is white space.

    No word crosses one of the borders.
    """
    word = (classes & WORD) != 0
    inside = word.copy()
    inside[1:-1] |= ((classes[1:-1] & CONNECTOR) != 0) & word[:-2] & word[2:]
    connectors = np.concatenate([borders, borders - 1])  # beside a border they connect nothing
    inside[connectors] &= word[connectors]
    joins = inside[:-1] & inside[1:]
    joins[borders[borders > 0] - 1] = False
    solid = ~space
    opens, closes = solid.copy(), solid
    opens[1:] &= ~joins
    closes[:-1] &= ~joins
    return np.flatnonzero(opens), np.flatnonzero(closes) + 1


def _cut_spacy(
    joined: str, classes: npt.NDArray[np.uint8], space: Flags, language: str
) -> tuple[Ints, Ints]:
    """Starts and ends of spaCy's tokens. The last character is white space."""
    opens = ~space
    opens[1:] &= space[:-1]
    starts = np.flatnonzero(opens)
    closes = ~space
    closes[:-1] &= space[1:]
    ends = np.flatnonzero(closes) + 1
    cutter = spacy_cuts(language)
    mixed = np.arange(len(starts))
    if cutter.letters_are_one_token:
        mixed = np.flatnonzero(_any(~space & ((classes & LETTER) == 0), starts, ends))
    bounds = zip(starts[mixed].tolist(), ends[mixed].tolist(), strict=True)
    chunks = [joined[start:end] for start, end in bounds]
    cuts = cutter.of(chunks)
    counts = np.fromiter(map(len, cuts), dtype=np.int64, count=len(cuts))
    offsets = np.fromiter(chain.from_iterable(cuts), dtype=np.int64, count=int(counts.sum()))
    inner = np.repeat(starts[mixed], counts) + offsets
    opens[inner] = True
    closes[inner - 1] = True
    return np.flatnonzero(opens), np.flatnonzero(closes) + 1


_SURROGATE = re.compile("[\ud800-\udfff]")
# Languages checked for it; elsewhere ("cannot" is two tokens in English) all chunks are cached.
_LETTERS_ARE_ONE_TOKEN = frozenset({"pt"})


class SpacyCuts:
    """Where spaCy splits a chunk between white space, cached: `("d'água.", ...)` to offsets.

    A whole text gives the same tokens as its chunks one by one. Bounded: at `max_chunks` the
    cache is emptied, which costs time and changes nothing.
    """

    def __init__(self, language: str, max_chunks: int = 1_000_000) -> None:
        try:
            import spacy
        except ImportError as error:
            raise missing_extra("spacy", "spacy") from error
        self._tokenizer = spacy.blank(language).tokenizer
        self._vocab = self._tokenizer.vocab
        # The attributes that spaCy computes for each new word (shape, likeness to a URL ...) do not
        # affect its splits: without them a new word costs half.
        self._vocab.lex_attr_getters = {}
        self.letters_are_one_token = language in _LETTERS_ARE_ONE_TOKEN
        self._known: dict[str, tuple[int, ...]] = {}
        self._max_chunks = max_chunks

    def of(self, chunks: Sequence[str]) -> list[tuple[int, ...]]:
        """Offsets at which each chunk is split, ascending; empty for one token."""
        known = self._known
        missing = list({chunk: None for chunk in chunks if chunk not in known})
        if len(known) + len(missing) > self._max_chunks:
            known.clear()
            missing = list(dict.fromkeys(chunks))
        if missing:
            known.update(zip(missing, self._learn(missing), strict=True))
        return [known[chunk] for chunk in chunks]

    def _learn(self, chunks: Sequence[str]) -> list[tuple[int, ...]]:
        lengths = np.fromiter(map(len, chunks), dtype=np.int64, count=len(chunks))
        starts = np.zeros(len(chunks) + 1, dtype=np.int64)
        np.cumsum(lengths + 1, out=starts[1:])
        with self._vocab.memory_zone():
            # spaCy cannot hash half of a surrogate pair; the replacement character splits the same.
            text = _SURROGATE.sub("\ufffd", " ".join(chunks))
            found = self._tokenizer(text).to_array(["IDX"]).astype(np.int64)
        owner = np.searchsorted(starts, found, side="right") - 1
        offsets = found - starts[owner]
        inner = offsets > 0
        owner, values = owner[inner], offsets[inner].tolist()
        borders = np.searchsorted(owner, np.arange(len(chunks) + 1)).tolist()
        return [tuple(values[low:high]) for low, high in pairwise(borders)]


@lru_cache(maxsize=2)
def spacy_cuts(language: str) -> SpacyCuts:
    """The cache of this process for one language."""
    return SpacyCuts(language)


def words_of(text: str, rule: WordRule, language: str) -> list[str]:
    """The words of one text as strings: for explanations and tests."""
    if rule == "fast":
        return FAST_WORD.findall(separate_words(text))
    words: list[str] = []
    chunks = text.split()
    for chunk, cuts in zip(chunks, spacy_cuts(language).of(chunks), strict=True):
        borders = (0, *cuts, len(chunk))
        words.extend(chunk[low:high] for low, high in pairwise(borders))
    return words
