"""The same numbers as `heuristic_rules.measure`, for a whole batch of texts.

Words are arrays (`word_table.py`); lines are few enough for plain Python. Only rules that have a
threshold are measured.

Repeated n-grams: each run of words is a 64-bit hash salted by its text, so one sort of the batch
finds the repeats of every text. A run can only repeat where its first and its last shorter run
repeat too: longer runs are looked for only there, and most texts have none left at 5 words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teenytinyllama.stages.corpus.batches import Values
from teenytinyllama.stages.corpus.filters import heuristic_rules
from teenytinyllama.stages.corpus.filters.word_table import (
    Flags,
    Hashes,
    Ints,
    WordTable,
    hash_word,
    powers,
)

LONGEST_COUNTED = 4
"""Up to this many words the most frequent run counts; above, every run seen before."""
_SEPARATOR = np.uint64(0xD6E8FEB86659FD93)
_SALT = np.uint64(0xA0761D6478BD642F)
_TOP = {n: f"top_{n}_gram" for n in range(2, LONGEST_COUNTED + 1)}
_SEEN = {n: f"duplicated_{n}_n_grams" for n in range(LONGEST_COUNTED + 1, 11)}


def measure_batch(
    texts: Sequence[str],
    words: WordTable,
    thresholds: Mapping[str, float],
    stop_words: frozenset[str],
    *,
    first_reason_only: bool = True,
) -> dict[str, Values]:
    """Values of every rule that has a threshold, one per text. No text is empty.

    The first rule that a text breaks by these values is the first by those of `measure`. A value
    that does not drop its text may be an upper bound (repeated runs) or 0 (bullets, ellipses at
    line ends) where that is cheaper, and so may that of any rule after the first that is broken,
    unless `first_reason_only` is false.
    """
    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    values = _line_values(texts, thresholds)
    wanted = np.ones(len(texts), dtype=bool)
    if first_reason_only:
        for rule in heuristic_rules.RULES[:4]:
            if rule.reason in thresholds:
                wanted &= values[rule.reason] <= thresholds[rule.reason]
    values |= _repeat_values(words, sizes, thresholds, wanted, first_reason_only=first_reason_only)
    values |= _word_values(texts, words, stop_words)
    return {reason: value for reason, value in values.items() if reason in thresholds}


def _repeat_values(
    words: WordTable,
    sizes: Ints,
    thresholds: Mapping[str, float],
    wanted: Flags,
    *,
    first_reason_only: bool,
) -> dict[str, Values]:
    longest = max((n for n, reason in (_TOP | _SEEN).items() if reason in thresholds), default=0)
    values = {}
    for repeats in find_repeats(words, longest, wanted):
        reason = (_TOP | _SEEN)[repeats.num_words]
        if reason not in thresholds:
            continue
        if repeats.num_words <= LONGEST_COUNTED:
            values[reason] = top_runs(words, repeats) / sizes
        else:
            values[reason] = repeated_share(words, repeats, sizes, thresholds[reason])
        if first_reason_only:
            wanted &= values[reason] <= thresholds[reason]
    return values


def _word_values(
    texts: Sequence[str], words: WordTable, stop_words: frozenset[str]
) -> dict[str, Values]:
    num = words.counts().astype(np.float64)
    solid = words.sum_by_document(words.solid).astype(np.float64)
    characters = words.sum_by_document(words.lengths * words.solid)
    with np.errstate(invalid="ignore"):
        mean_length = characters / solid
    hashes = np.array([text.count("#") for text in texts])
    dots = np.array([text.count("...") + text.count("…") for text in texts])
    breaks = np.array([text.count("\n") for text in texts])
    return {
        "list_ratio": breaks / num,
        "gopher_short_doc": solid,
        "gopher_long_doc": solid,
        "gopher_below_avg_threshold": mean_length,
        "gopher_above_avg_threshold": mean_length,
        "gopher_too_many_hashes": hashes / num,
        "gopher_too_many_ellipsis": dots / num,
        "gopher_below_alpha_threshold": words.sum_by_document(words.letters) / num,
        "gopher_enough_stop_words": _count_stop_words(words, stop_words),
    }


def _count_stop_words(words: WordTable, stop_words: frozenset[str]) -> Values:
    """How many different stop words each text has."""
    known = np.sort(np.array([hash_word(word) for word in sorted(stop_words)], dtype=np.uint64))
    present = np.zeros((words.num_documents, max(1, len(known))), dtype=bool)
    if len(known):
        short = np.flatnonzero(words.lengths <= max(map(len, stop_words)))
        place = np.searchsorted(known, words.hashes[short])
        place[place == len(known)] = 0
        hit = known[place] == words.hashes[short]
        present[words.documents[short[hit]], place[hit]] = True
    counts: Values = present.sum(axis=1).astype(np.float64)
    return counts


def _line_values(texts: Sequence[str], thresholds: Mapping[str, float]) -> dict[str, Values]:
    paragraphs = not thresholds.keys().isdisjoint({"dup_para_frac", "dup_para_char_frac"})
    short = "short_line_ratio" in thresholds
    bullets = thresholds.get("gopher_too_many_bullets", 1.0)
    ellipses = thresholds.get("gopher_too_many_end_ellipsis", 1.0)
    values: dict[str, list[float]] = {rule.reason: [] for rule in heuristic_rules.RULES[:4]}
    values |= {"line_punct_ratio": [], "short_line_ratio": [], "char_dup_ratio": []}
    values |= {"gopher_too_many_bullets": [], "gopher_too_many_end_ellipsis": []}
    for text in texts:
        by_break = text.split("\n")
        lines = [line for line in by_break if line]
        filled = [line for line in lines if not line.isspace()]
        again = heuristic_rules.repeated(lines)
        filled_again = again if len(filled) == len(lines) else heuristic_rules.repeated(filled)
        # datatrove splits at runs of line breaks: one at an end of the text gives an empty item.
        edges = text.startswith("\n") + text.endswith("\n")
        values["dup_line_frac"].append((again[0] + (edges == 2)) / (len(lines) + edges))
        values["dup_line_char_frac"].append(again[1] / len(text))
        breaks = len(by_break) - 1
        values["char_dup_ratio"].append(filled_again[1] / (len(text) - breaks))
        values["line_punct_ratio"].append(heuristic_rules.ending_lines(filled))
        values["short_line_ratio"].append(heuristic_rules.short_lines(filled) if short else 0.0)
        para = heuristic_rules.repeated(heuristic_rules.paragraphs(text)) if paragraphs else (0, 0)
        values["dup_para_frac"].append(
            para[0] / len(heuristic_rules.paragraphs(text)) if para[0] else 0.0
        )
        values["dup_para_char_frac"].append(para[1] / len(text))
        any_lines = text.splitlines()
        marks, ends = text.count("•") + text.count("-"), text.count("...") + text.count("…")
        enough = marks > bullets * len(any_lines)
        values["gopher_too_many_bullets"].append(
            heuristic_rules.bullet_lines(any_lines) if enough else 0.0
        )
        enough = ends > ellipses * len(any_lines)
        values["gopher_too_many_end_ellipsis"].append(
            heuristic_rules.ellipsis_lines(any_lines) if enough else 0.0
        )
    return {reason: np.array(column, dtype=np.float64) for reason, column in values.items()}


@dataclass(frozen=True)
class RepeatedRuns:
    """Runs of `num_words` words that occur twice or more in their text.

    `at`: first words of these runs, equal runs side by side, in order of the text; `group_starts`:
    where in `at` each group of equal runs begins.
    """

    num_words: int
    at: Ints
    group_starts: Ints

    def later(self) -> Ints:
        """First words of the runs that repeat an earlier one, ascending."""
        again = np.ones(len(self.at), dtype=bool)
        again[self.group_starts] = False
        return np.sort(self.at[again])


def find_repeats(words: WordTable, max_words: int, wanted: Flags) -> Iterator[RepeatedRuns]:
    """Repeated runs of 2, 3 ... `max_words` words, in the texts that are wanted.

    `wanted` has one flag per text; the caller may clear flags between two lengths.
    """
    num = len(words.lengths)
    salts = words.documents.astype(np.uint64) * _SALT
    hashes = words.hashes * _SEPARATOR + words.hashes
    joined = words.hashes  # hash of the joined characters, which datatrove compares from 5 on
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


def _group(candidates: Ints, keys: Hashes, num_words: int) -> RepeatedRuns:
    """Group equal keys: first drop those alone in their bucket, then sort the others."""
    keys = (keys ^ (keys >> np.uint64(32))) * _SALT
    bits = max(8, len(keys).bit_length() + 1)
    buckets = (keys >> np.uint64(64 - bits)).astype(np.int64)
    crowded = np.bincount(buckets, minlength=1 << bits)[buckets] > 1
    candidates, keys = candidates[crowded], keys[crowded]
    # The low bits of the sorted number are the position: equal keys stay in order of the text.
    low = np.uint64((1 << max(1, len(keys).bit_length())) - 1)
    packed = (keys & ~low) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order = (packed & low).astype(np.int64)
    keys = keys[order]
    same = np.zeros(len(keys) + 1, dtype=bool)
    same[1:-1] = keys[1:] == keys[:-1]
    members = same[:-1] | same[1:]
    opens = (members & ~same[:-1])[members]
    return RepeatedRuns(num_words, candidates[order[members]], np.flatnonzero(opens))


def top_runs(words: WordTable, repeats: RepeatedRuns) -> Ints:
    """Characters of each text that its most frequent run covers, as datatrove counts them.

    How often the run occurs, times its length with one space between words. Of equally frequent
    runs the first counts; where none repeats that is the text's first run. 0 without any run.
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
    words: WordTable, repeats: RepeatedRuns, sizes: Ints, threshold: float
) -> npt.NDArray[np.float64]:
    """Share of each text in runs seen before, as datatrove counts it: run by run, where a repeated
    run is skipped as a whole.

    Exact where it is above the threshold; elsewhere it may be an upper bound, which is cheap: the
    characters under any repeated run.
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
            covered[document] = _count_skipping(at[low:high], groups[low:high], num, ends)
    return covered / sizes


def _count_skipping(at: Ints, groups: Ints, num_words: int, ends: Ints) -> int:
    """Exact count for one text. Only runs that occur twice can be seen again."""
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
