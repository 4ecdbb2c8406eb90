"""Repeated runs of words, in a whole batch of texts at once.

The rules of Gopher ask how much of a text is its most frequent 2-, 3- or 4-gram, and how much is
5- to 10-grams seen before. Each run of words is a 64-bit hash that its text salts, so one sort of
the batch finds the repeats of every text. A run can only repeat where its first and its last
shorter runs repeat too: longer runs are looked at only there, and most texts have none left at 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teenytinyllama.stages.corpus.filters.word_table import Flags, Hashes, Ints, WordTable, powers

LONGEST_COUNTED = 4
"""Up to this many words the most frequent run counts; above, every run seen before."""
_SEPARATOR = np.uint64(0xD6E8FEB86659FD93)
_SALT = np.uint64(0xA0761D6478BD642F)


@dataclass(frozen=True)
class Repeats:
    """Runs of `num_words` words that their text has twice or more.

    `at`: first words of these runs, equal ones next to each other, in order of the text;
    `group_starts`: where in `at` each group of equal runs begins.
    """

    num_words: int
    at: Ints
    group_starts: Ints

    def later(self) -> Ints:
        """First words of the runs that repeat an earlier one, ascending."""
        again = np.ones(len(self.at), dtype=bool)
        again[self.group_starts] = False
        return np.sort(self.at[again])


def find_repeats(words: WordTable, max_words: int, wanted: Flags) -> Iterator[Repeats]:
    """Repeats of runs of 2, 3 ... `max_words` words, in the texts that are wanted.

    `wanted` has one flag a text; the caller may lower flags between two lengths.
    """
    num = len(words.lengths)
    salts = words.documents.astype(np.uint64) * _SALT
    hashes = words.hashes * _SEPARATOR + words.hashes
    joined = words.hashes  # the runs' characters laid end to end, as datatrove compares from 5 on
    length_powers = powers(int(words.lengths.max(initial=0)) + 1)[words.lengths]
    candidates = np.arange(num)
    for num_words in range(2, max_words + 1):
        reach = max(0, num - num_words + 1)
        last = slice(num_words - 1, num_words - 1 + reach)
        hashes = hashes[:reach] * _SEPARATOR + words.hashes[last]
        joined = joined[:reach] * length_powers[last] + words.hashes[last]
        candidates = candidates[candidates < reach]
        candidates = candidates[wanted[words.documents[candidates]]]
        ends = words.documents[candidates + num_words - 1]
        candidates = candidates[words.documents[candidates] == ends]
        keys = (hashes if num_words <= LONGEST_COUNTED else joined)[candidates]
        found = _group(candidates, keys + salts[candidates], num_words)
        yield found
        repeated = np.zeros(num + 1, dtype=bool)
        repeated[found.at] = True
        candidates = np.flatnonzero(repeated[:-1] & repeated[1:])


def _group(candidates: Ints, keys: Hashes, num_words: int) -> Repeats:
    """Bring equal keys together: first drop those alone in their bucket, then sort the others."""
    keys = (keys ^ (keys >> np.uint64(32))) * _SALT
    bits = max(8, len(keys).bit_length() + 1)
    buckets = (keys >> np.uint64(64 - bits)).astype(np.int64)
    crowded = np.bincount(buckets, minlength=1 << bits)[buckets] > 1
    candidates, keys = candidates[crowded], keys[crowded]
    # The low bits of the sorted number are the place, so that equal keys stay in order of the text.
    low = np.uint64((1 << max(1, len(keys).bit_length())) - 1)
    packed = (keys & ~low) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order = (packed & low).astype(np.int64)
    keys = keys[order]
    same = np.zeros(len(keys) + 1, dtype=bool)
    same[1:-1] = keys[1:] == keys[:-1]
    members = same[:-1] | same[1:]
    opens = (members & ~same[:-1])[members]
    return Repeats(num_words, candidates[order[members]], np.flatnonzero(opens))


def top_runs(words: WordTable, repeats: Repeats) -> Ints:
    """Characters of each text that its most frequent run covers, as datatrove counts them.

    Times the run occurs, by its length with one space between words. Of equally frequent runs
    the first one counts; where none repeats that is the text's first run. 0 without any run.
    """
    num = repeats.num_words
    bits = np.int64(40)
    times = np.diff(repeats.group_starts, append=len(repeats.at))
    first = repeats.at[repeats.group_starts]
    best = np.full(words.num_documents, (1 << bits), dtype=np.int64)
    best += (1 << bits) - 1 - words.first[:-1]
    np.maximum.at(best, words.documents[first], (times << bits) + ((1 << bits) - 1 - first))
    start = (1 << bits) - 1 - (best & ((1 << bits) - 1))
    there = words.counts() >= num
    stop = np.where(there, start + num, start)
    length = words.ends[stop] - words.ends[start] + num - 1
    return np.where(there, length * (best >> bits), 0)


def repeated_share(
    words: WordTable, repeats: Repeats, sizes: Ints, threshold: float
) -> npt.NDArray[np.float64]:
    """Share of each text in runs it had before, as datatrove counts them: one run after the
    other, a repeated run is jumped over whole.

    Exact where it is above the threshold; elsewhere it may be an upper bound, which is cheap:
    the characters under any repeated run.
    """
    num, ends = repeats.num_words, words.ends
    later = repeats.later()
    stop = np.minimum(later + num, np.append(later[1:], len(words.lengths)))
    covered = np.zeros(words.num_documents, dtype=np.int64)
    np.add.at(covered, words.documents[later], ends[stop] - ends[later])
    above = np.flatnonzero(covered / sizes > threshold)
    if len(above):
        groups = np.zeros(len(repeats.at), dtype=np.int64)
        groups[repeats.group_starts] = 1
        groups = np.cumsum(groups)
        order = np.argsort(repeats.at)
        at, groups = repeats.at[order], groups[order]
        for document in above.tolist():
            low, high = np.searchsorted(at, words.first[document : document + 2])
            covered[document] = _jump(at[low:high], groups[low:high], num, ends)
    return covered / sizes


def _jump(at: Ints, groups: Ints, num_words: int, ends: Ints) -> int:
    """Exact count of one text. Only runs that occur twice can be seen again."""
    seen: set[int] = set()
    characters, free = 0, 0
    run_lengths = (ends[at + num_words] - ends[at]).tolist()
    for start, group, length in zip(at.tolist(), groups.tolist(), run_lengths, strict=True):
        if start < free:
            continue
        if group in seen:
            characters += length
            free = start + num_words
        else:
            seen.add(group)
    return characters
