"""A cloze task made from held-out text, for any language: which of four words ends the sentence.

A language without benchmarks still has text that its model has not seen. The context is the
paragraph up to the word. Wrong choices are last words of other held-out sentences, of similar
length and frequency, so that neither gives the answer away.

In scripts without spaces a phrase ends at a space, too: Thai and Lao have no mark for it. The model
reads a space before each of the four words there as elsewhere, though the text has none.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.languages import sentence_ends
from teenytinyllama.languages.segmentation import (
    find_words,
    has_spaces_between_words,
    has_unspaced_letters,
    word_spans,
)

NUM_CHOICES = 4
MIN_WORDS = 5  # before the last one of the sentence
MIN_CHARACTERS, MIN_UNSPACED_CHARACTERS = 3, 2
MAX_CONTEXT_CHARACTERS = 400
_LENGTH_BAND = 2  # characters by which a wrong choice may be longer or shorter
_FREQUENCY_BAND = 1.6  # difference of natural logarithms: five times as frequent, or a fifth


@dataclass(frozen=True)
class _Gap:
    context: str
    word: str


@cache
def _end_of_phrase() -> re.Pattern[str]:
    return re.compile(rf"[{sentence_ends()}]|\s|$")


@cache
def _end_of_sentence() -> re.Pattern[str]:
    return re.compile(rf"[{sentence_ends()}]+[\"'”’»)]*(?=\s|$)")


def cloze_rows(documents: Sequence[Document], num_items: int, seed: int) -> list[dict[str, Any]]:
    """At most `num_items` random items `question, choices, answer`.

    Empty where no sentence fits: too little text.
    """
    counts: Counter[str] = Counter()
    gaps: list[_Gap] = []
    for document in documents:
        counts.update(find_words(document.text))
        gaps.extend(gap for line in document.text.split("\n") for gap in _gaps(line))
    endings = sorted({gap.word for gap in gaps})
    rng = random.Random(f"cloze/{seed}")
    rng.shuffle(gaps)
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for gap in gaps:
        if len(rows) == num_items:
            break
        wrong = _wrong_words(gap, endings, counts, rng)
        if len(wrong) < NUM_CHOICES - 1 or (gap.context, gap.word) in seen:
            continue
        seen.add((gap.context, gap.word))
        choices = [*wrong, gap.word]
        rng.shuffle(choices)
        rows.append(
            {"question": gap.context, "choices": choices, "answer": choices.index(gap.word)}
        )
    return rows


def _gaps(line: str) -> Iterator[_Gap]:
    """The gaps of one paragraph."""
    if not has_spaces_between_words(line):
        yield from _unspaced_gaps(line)
        return
    spans = word_spans(line)
    starts = [start for start, _ in spans]
    first = 0
    for end in _end_of_sentence().finditer(line):
        after = bisect_left(starts, end.start())
        words, first = spans[first:after], bisect_left(starts, end.end())
        if len(words) <= MIN_WORDS or words[-1][1] != end.start():
            continue
        word, before = line[slice(*words[-1])], line[: words[-1][0]]
        # The model predicts a word after a space: not after "guarda-" or an apostrophe.
        if not before.endswith(" ") or len(word) < MIN_CHARACTERS or not word[0].isalpha():
            continue
        yield _Gap(_truncate(before.rstrip()), word)


def _unspaced_gaps(line: str) -> Iterator[_Gap]:
    for number, (start, end) in enumerate(word_spans(line)):
        word, is_last = line[start:end], _end_of_phrase().match(line, end) is not None
        if not is_last or number < MIN_WORDS or len(word) < MIN_UNSPACED_CHARACTERS:
            continue
        if has_unspaced_letters(word) and not line[start - 1].isspace():
            yield _Gap(line[max(0, start - MAX_CONTEXT_CHARACTERS) : start], word)


def _truncate(context: str) -> str:
    """The end of a long context, from the start of a word."""
    if len(context) <= MAX_CONTEXT_CHARACTERS:
        return context
    return context[-MAX_CONTEXT_CHARACTERS:].partition(" ")[2]


def _wrong_words(
    gap: _Gap, endings: Sequence[str], counts: Counter[str], rng: random.Random
) -> list[str]:
    level = math.log(counts[gap.word])
    alike = [
        word
        for word in endings
        if word.casefold() != gap.word.casefold()
        and abs(len(word) - len(gap.word)) <= _LENGTH_BAND
        and abs(math.log(counts[word]) - level) <= _FREQUENCY_BAND
        and word not in gap.context
    ]
    return rng.sample(alike, min(NUM_CHOICES - 1, len(alike)))
