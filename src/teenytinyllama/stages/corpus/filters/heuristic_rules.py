"""The rules of Gopher and FineWeb on one text, written to be read.

This is the definition: `--explain` prints it, and the tests compare the arrays of
`text_statistics.py` with it. Reasons, order and arithmetic are datatrove's (0.10.1), so that
thresholds published for it mean the same here. Order: repetition, FineWeb's line rules, quality.
Papers: Rae et al. 2021, table A1 and section A1.1; Penedo et al. 2024.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from teenytinyllama.stages.corpus.filters.word_table import PUNCTUATION_MARKS, TERMINAL_MARKS

Family = Literal["language", "repetition", "fineweb", "quality"]


@dataclass(frozen=True)
class Rule:
    """A statistic of a text, and on which side of its threshold the text is dropped."""

    reason: str
    family: Family
    side: Literal["max", "min"]
    meaning: str

    def drops(self, value: Any, threshold: float) -> Any:
        """Whether texts are dropped: a bool for a number, an array of bools for an array."""
        return value > threshold if self.side == "max" else value < threshold


RULES: tuple[Rule, ...] = (
    Rule("dup_para_frac", "repetition", "max", "paragraphs that repeat an earlier one, share"),
    Rule("dup_para_char_frac", "repetition", "max", "characters in repeated paragraphs, share"),
    Rule("dup_line_frac", "repetition", "max", "lines that repeat an earlier one, share"),
    Rule("dup_line_char_frac", "repetition", "max", "characters in repeated lines, share"),
    *(
        Rule(
            f"top_{n}_gram",
            "repetition",
            "max",
            f"characters of the most frequent {n} words, share",
        )
        for n in (2, 3, 4)
    ),
    *(
        Rule(
            f"duplicated_{n}_n_grams",
            "repetition",
            "max",
            f"characters in runs of {n} words seen before, share",
        )
        for n in range(5, 11)
    ),
    Rule("line_punct_ratio", "fineweb", "min", "lines that end in a mark like . ! ?, share"),
    Rule("short_line_ratio", "fineweb", "max", "lines of 30 characters or fewer, share"),
    Rule("char_dup_ratio", "fineweb", "max", "characters in repeated lines, share"),
    Rule("list_ratio", "fineweb", "max", "line breaks per word"),
    Rule("gopher_short_doc", "quality", "min", "words, punctuation not counted"),
    Rule("gopher_long_doc", "quality", "max", "words, punctuation not counted"),
    Rule("gopher_below_avg_threshold", "quality", "min", "characters of a word, mean"),
    Rule("gopher_above_avg_threshold", "quality", "max", "characters of a word, mean"),
    Rule("gopher_too_many_hashes", "quality", "max", "signs # per word"),
    Rule("gopher_too_many_ellipsis", "quality", "max", "ellipses per word"),
    Rule("gopher_too_many_bullets", "quality", "max", "lines that start with a bullet, share"),
    Rule("gopher_too_many_end_ellipsis", "quality", "max", "lines that end in ..., share"),
    Rule("gopher_below_alpha_threshold", "quality", "min", "words with a letter, share"),
    Rule("gopher_enough_stop_words", "quality", "min", "different stop words"),
)
"""All rules in order: the first that a text breaks is the reason."""

SHORT_LINE_CHARACTERS = 30

_PARAGRAPH_BREAK = re.compile(r"\n{2,}")
_LINE_BREAK = re.compile(r"\n+")


def repeated(items: Sequence[str]) -> tuple[int, int]:
    """How many items repeat an earlier one, and their characters.

    >>> repeated(["ai", "ui", "ai", "ai"])
    (2, 4)
    """
    once = set(items)
    return len(items) - len(once), sum(map(len, items)) - sum(map(len, once))


def top_run(words: Sequence[str], num_words: int) -> int:
    """Characters of the most frequent run of words, all occurrences; the earliest of equals.

    >>> top_run("o rato viu o rato".split(), 2)
    12
    """
    runs = [" ".join(words[i : i + num_words]) for i in range(len(words) - num_words + 1)]
    if not runs:
        return 0
    run, times = Counter(runs).most_common(1)[0]
    return len(run) * times


def seen_before(words: Sequence[str], num_words: int) -> int:
    """Characters in runs of words seen before; a run found again is skipped as a whole.

    >>> seen_before("a b a b a b".split(), 2)
    4
    """
    seen: set[str] = set()
    characters = place = 0
    while place < len(words) - num_words + 1:
        run = "".join(words[place : place + num_words])
        if run in seen:
            characters += len(run)
            place += num_words
        else:
            seen.add(run)
            place += 1
    return characters


def paragraphs(text: str) -> list[str]:
    """Blocks between empty lines."""
    return _PARAGRAPH_BREAK.split(text.strip())


def filled_lines(text: str) -> list[str]:
    """Lines that are not only white space."""
    return [line for line in text.split("\n") if line and not line.isspace()]


def _mean_length(words: Sequence[str]) -> float:
    solid = [len(word) for word in words if not PUNCTUATION_MARKS.issuperset(word)]
    return sum(solid) / len(solid) if solid else float("nan")


def _num_solid(words: Sequence[str]) -> int:
    return sum(not PUNCTUATION_MARKS.issuperset(word) for word in words)


def bullet_lines(lines: Sequence[str]) -> float:
    """Share of lines that start with a bullet or a hyphen."""
    return sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines)


def ellipsis_lines(lines: Sequence[str]) -> float:
    """Share of lines that end in an ellipsis."""
    return sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)


def ending_lines(lines: Sequence[str]) -> float:
    """Share of lines whose last character ends a sentence."""
    return sum(line[-1] in TERMINAL_MARKS for line in lines) / len(lines)


def short_lines(lines: Sequence[str]) -> float:
    """Share of lines of at most `SHORT_LINE_CHARACTERS`."""
    return sum(len(line) <= SHORT_LINE_CHARACTERS for line in lines) / len(lines)


def measure(text: str, words: Sequence[str], stop_words: frozenset[str]) -> dict[str, float]:
    """The value of every rule for a text that is not empty, by reason."""
    blocks = paragraphs(text)
    lines, filled, any_lines = _LINE_BREAK.split(text), filled_lines(text), text.splitlines()
    para, line = repeated(blocks), repeated(lines)
    size, num = len(text), len(words)
    values = {
        "dup_para_frac": para[0] / len(blocks),
        "dup_para_char_frac": para[1] / size,
        "dup_line_frac": line[0] / len(lines),
        "dup_line_char_frac": line[1] / size,
    }
    values |= {f"top_{n}_gram": top_run(words, n) / size for n in (2, 3, 4)}
    values |= {f"duplicated_{n}_n_grams": seen_before(words, n) / size for n in range(5, 11)}
    return values | {
        "line_punct_ratio": ending_lines(filled),
        "short_line_ratio": short_lines(filled),
        "char_dup_ratio": repeated(filled)[1] / len(text.replace("\n", "")),
        "list_ratio": text.count("\n") / num,
        "gopher_short_doc": _num_solid(words),
        "gopher_long_doc": _num_solid(words),
        "gopher_below_avg_threshold": _mean_length(words),
        "gopher_above_avg_threshold": _mean_length(words),
        "gopher_too_many_hashes": text.count("#") / num,
        "gopher_too_many_ellipsis": (text.count("...") + text.count("…")) / num,
        "gopher_too_many_bullets": bullet_lines(any_lines),
        "gopher_too_many_end_ellipsis": ellipsis_lines(any_lines),
        "gopher_below_alpha_threshold": sum(any(map(str.isalpha, w)) for w in words) / num,
        "gopher_enough_stop_words": len(stop_words.intersection(words)),
    }
