"""Texts as sets of hashed word n-grams (shingles), and their MinHash band keys.

A word is a run of letters and digits, lower-cased; punctuation ends it. In scripts without spaces
`languages.segmentation` says where words end. Words are hashed in place as numbers in arrays, many
texts at a time and without a string per word. Needs a few megabytes, whatever the size of the
corpus.

The band keys of texts in such scripts are made from runs of characters: one changed character there
moves the borders of the words around it, and hides a copy whose words are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teenytinyllama.languages import mark_class
from teenytinyllama.languages.segmentation import (
    UNSPACED_SIGNS,
    has_spaces_between_words,
    has_unspaced_letters,
    may_be_unspaced,
    separate_words,
)
from teenytinyllama.settings.data_preparation import NearDuplicateSettings

Hashes32 = npt.NDArray[np.uint32]
Hashes64 = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

# Bytes hashed together: they fit into the processor's cache.
BYTES_PER_BLOCK = 1 << 17
# Shingles hashed together.
SHINGLES_PER_BLOCK = 1 << 15
# Characters of one run where spaces do not separate words, and rows of a band less than elsewhere:
# with 16 bands of 4, 99 % of the copies with 5 % of their characters changed share a key.
CHARACTERS_PER_SHINGLE, FEWER_ROWS = 4, 1
_MIX = np.uint64(0x9E3779B97F4A7C15)
_ONE, _HIGH = np.uint64(1), np.uint64(32)

# An odd number: it has an inverse modulo 2^64, so that a word's hash does not depend on its place.
_BASE = 0xD6E8FEB86659FD93


class _Tables(NamedTuple):
    """Look-up tables of word hashing: by byte, and by position in the block."""

    is_word: npt.NDArray[np.bool_]
    values: Hashes64
    powers: Hashes64
    inverses: Hashes64


@cache
def _tables() -> _Tables:
    random = np.random.Generator(np.random.Philox(0x5EED))
    return _Tables(
        is_word=np.array([byte >= 0x80 or chr(byte).isalnum() for byte in range(256)]),
        values=random.integers(0, 1 << 63, 256, dtype=np.uint64) | _ONE,
        powers=_powers(_BASE),
        inverses=_powers(pow(_BASE, -1, 1 << 64)),
    )


def _powers(base: int) -> Hashes64:
    made = np.full(BYTES_PER_BLOCK, base, np.uint64)
    made[0] = 1
    return np.multiply.accumulate(made)


def _word_hashes(block: bytes) -> tuple[Hashes64, Places]:
    """Hash of every word of a block, and the position of its first byte."""
    tables = _tables()
    data = np.frombuffer(block, np.uint8)
    word = np.zeros(len(data) + 2, bool)
    inside = word[1:-1]
    np.take(tables.is_word, data, out=inside)
    # U+0080 to U+00BF (no-break space, « ») and U+2000 to U+203F (dashes, “ ”) end words too.
    latin = np.flatnonzero(data == 0xC2)
    general = np.flatnonzero((data[:-1] == 0xE2) & (data[1:] == 0x80))
    for width, leads in ((2, latin), (3, general)):
        for offset in range(width):
            inside[np.minimum(leads + offset, len(data) - 1)] = False
    edges = np.flatnonzero(word[1:] != word[:-1])
    starts, ends = edges[0::2], edges[1::2]
    sums = np.empty(len(data) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(tables.values[data] * tables.powers[: len(data)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * tables.inverses[starts]
    hashes ^= hashes >> np.uint64(32)
    return hashes * _MIX, starts


class Shingler:
    """Hashes the n-grams of `ngram_words` words in texts, many texts at a time."""

    def __init__(self, ngram_words: int) -> None:
        self.ngram_words = ngram_words
        random = np.random.Generator(np.random.Philox(0x5EED + 1))
        self._places = random.integers(0, 1 << 63, ngram_words, dtype=np.uint64) | _ONE

    def shingles(self, texts: Sequence[str]) -> list[Hashes32]:
        """32-bit hashes of the n-grams of each text, in order.

        A text with fewer words has one n-gram of them all, a text without words none.
        """
        return [self.shorten(words) for words in self.words(texts)]

    def character_shingles(self, texts: Sequence[str]) -> list[Hashes32]:
        """The same of the characters of each text, each hashed as if it were a word."""
        return [self.shorten(_hashed_characters(text)) for text in texts]

    def ngrams(self, texts: Sequence[str]) -> list[Hashes64]:
        """64-bit hashes of the n-grams of each text; none where it has fewer words."""
        return [self.ngrams_of_words(words) for words in self.words(texts)]

    def ngrams_of_words(self, words: Hashes64) -> Hashes64:
        """The n-grams of these words, in order."""
        return self._ngrams(words, self.ngram_words)

    def words(self, texts: Sequence[str]) -> list[Hashes64]:
        """The hash of every word of each text."""
        return hash_words(map(encode, texts))

    def shorten(self, words: Hashes64) -> Hashes32:
        """The n-grams of these words in 32 bits; one of them all where there are fewer."""
        return (self._ngrams(words, min(self.ngram_words, len(words))) >> _HIGH).astype(np.uint32)

    def _ngrams(self, words: Hashes64, size: int) -> Hashes64:
        if size == 0 or len(words) < size:
            return np.empty(0, np.uint64)
        last = len(words) - size + 1
        mixed: Hashes64 = words[:last] * self._places[0]
        for place in range(1, size):
            mixed += words[place : place + last] * self._places[place]
        mixed ^= mixed >> np.uint64(29)
        mixed *= _MIX
        return mixed


def encode(text: str) -> bytes:
    """The text in lower case and UTF-8, with spaces between the words of scripts without."""
    lower = text.lower()
    data = lower.encode("utf-8")
    if may_be_unspaced(data) and has_unspaced_letters(lower):
        return UNSPACED_SIGNS.sub(" ", separate_words(lower)).encode("utf-8")
    return data


def hash_words(encoded: Iterable[bytes]) -> list[Hashes64]:
    """The hash of every word of each text, which `encode` gives."""
    made: list[Hashes64] = []
    block: list[bytes] = []
    held = 0
    for data in encoded:
        if block and held + len(data) + 1 > BYTES_PER_BLOCK:
            made += _words_of_block(block)
            block, held = [], 0
        if len(data) >= BYTES_PER_BLOCK:
            made.append(_long_words(data))
            continue
        block.append(data)
        held += len(data) + 1
    return made + _words_of_block(block) if block else made


def _hashed_characters(text: str) -> Hashes64:
    codes = np.frombuffer(characters(text).encode("utf-32-le", "surrogatepass"), np.uint32)
    hashes = (codes.astype(np.uint64) + _ONE) * _MIX
    hashes ^= hashes >> _HIGH
    return hashes * _MIX


def _words_of_block(block: list[bytes]) -> list[Hashes64]:
    """Word hashes of short texts, joined into one block."""
    hashes, starts = _word_hashes(b"\n".join(block))
    borders = np.cumsum([len(data) + 1 for data in block[:-1]])
    return np.split(hashes, np.searchsorted(starts, borders))


def _long_words(data: bytes) -> Hashes64:
    """Word hashes of a text longer than a block, cut between words."""
    parts, at = [], 0
    while at < len(data):
        end = min(at + BYTES_PER_BLOCK, len(data))
        if end < len(data):
            space = max(data.rfind(b" ", at, end), data.rfind(b"\n", at, end))
            end = space if space > at else end
        parts.append(_word_hashes(data[at:end])[0])
        at = end
    return np.concatenate(parts)


@cache
def _no_characters() -> re.Pattern[str]:
    return re.compile(rf"[^\w{mark_class()}]+")


def characters(text: str) -> str:
    """Letters, digits and marks of a text, lower-cased.

    >>> characters("Sim, 第2天: ไป!")
    'sim第2天ไป'
    """
    return _no_characters().sub("", text.lower())


class MinHasher:
    """Band keys of texts (Broder 1997): texts that share a key are candidate near duplicates."""

    def __init__(self, settings: NearDuplicateSettings) -> None:
        self.settings = settings
        self.shingler = Shingler(settings.ngram_words)
        self._of_characters = Shingler(CHARACTERS_PER_SHINGLE)
        random = np.random.Generator(np.random.Philox(0x5EED + 2))
        num_hashes = settings.num_bands * settings.rows_per_band
        self._factors = random.integers(0, 1 << 32, num_hashes, dtype=np.uint32) | np.uint32(1)
        self._terms = random.integers(0, 1 << 32, num_hashes, dtype=np.uint32)
        self._columns = random.integers(0, 1 << 63, num_hashes, dtype=np.uint64) | _ONE

    def band_keys(self, texts: Sequence[str]) -> Hashes64:
        """One row per text with a key per band. Zeros, which are no key, for no words."""
        keys = np.zeros((len(texts), self.settings.num_bands), np.uint64)
        encoded = [encode(text) for text in texts]
        unspaced = [
            row
            for row, data in enumerate(encoded)
            if may_be_unspaced(data) and not has_spaces_between_words(texts[row])
        ]
        spaced = sorted(set(range(len(texts))).difference(unspaced))
        words = hash_words(encoded[row] for row in spaced)
        shingles = [self.shingler.shorten(one) for one in words]
        self._fill(keys, spaced, shingles, self.settings.rows_per_band)
        runs = self._of_characters.character_shingles([texts[row] for row in unspaced])
        self._fill(keys, unspaced, runs, max(1, self.settings.rows_per_band - FEWER_ROWS))
        return keys

    def _fill(
        self, keys: Hashes64, rows: Sequence[int], shingles: Sequence[Hashes32], num_rows: int
    ) -> None:
        """Set these rows of `keys`; equal texts have equal keys in any batch."""
        block: list[Hashes32] = []
        filled: list[int] = []
        held = 0
        for row, part in zip(rows, shingles, strict=True):
            if not len(part):
                continue
            if block and held + len(part) > SHINGLES_PER_BLOCK:
                keys[filled] = self._keys(block, num_rows)
                block, filled, held = [], [], 0
            block.append(part)
            filled.append(row)
            held += len(part)
        if block:
            keys[filled] = self._keys(block, num_rows)

    def _keys(self, block: Sequence[Hashes32], num_rows: int) -> Hashes64:
        """Band keys of joined texts: the minimum of each hash, then bands of `num_rows` minima."""
        starts = np.cumsum([0, *[len(part) for part in block[:-1]]])
        shingles = np.concatenate(block)
        num_hashes = self.settings.num_bands * num_rows
        minima = np.empty((num_hashes, len(block)), np.uint32)
        space = np.empty_like(shingles)
        for number in range(num_hashes):
            np.multiply(shingles, self._factors[number], out=space)
            np.add(space, self._terms[number], out=space)
            np.minimum.reduceat(space, starts, out=minima[number])
        products = minima.astype(np.uint64) * self._columns[:num_hashes, None]
        products ^= products >> np.uint64(31)
        products *= _MIX
        bands = products.reshape(self.settings.num_bands, num_rows, -1)
        sums: Hashes64 = bands.sum(axis=1, dtype=np.uint64)
        sums ^= sums >> np.uint64(32)
        keys: Hashes64 = (sums * _MIX) | _ONE
        return keys.T


def jaccard(one: Hashes32, other: Hashes32) -> float:
    """Share of n-grams that two texts have in common; both arrays sorted, without repeats."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
