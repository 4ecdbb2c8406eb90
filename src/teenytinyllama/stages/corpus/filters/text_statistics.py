"""The same numbers as `heuristic_rules.measure`, for a whole batch of texts.

Words are arrays (words.py, repeats.py); lines are few enough for plain Python. Only rules that
have a threshold are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from teenytinyllama.stages.corpus.filters import heuristic_rules
from teenytinyllama.stages.corpus.filters.repetition_statistics import (
    LONGEST_COUNTED,
    find_repeats,
    repeated_share,
    top_runs,
)
from teenytinyllama.stages.corpus.filters.word_table import Flags, Ints, WordTable, hash_word

Values = npt.NDArray[np.float64]

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

    The first rule that drops a text on them is the first in `measure`. A value that does
    not drop its text may be an upper bound (repeated runs) or 0 (bullets, ellipses at line ends)
    where that is cheaper; so may any of a rule after the first that drops, unless all are asked.
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
        # datatrove cuts at runs of line breaks: one at either end of the text leaves an empty item.
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
