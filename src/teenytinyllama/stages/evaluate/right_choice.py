"""Which choice of an item is right: a task file says it as a choice's text, number or letter.

Both can be a number: a year, "0", "1". The harness reads any digits as a place among the choices,
so that a task whose answers are numbers is scored on the wrong choice. Here all items of a task
decide together: digits are a text where they are one of the choices in every item.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

# What a right answer is read as; None: the choice's text where it is one, else its number.
TargetKind = Literal["text", "index"] | None
TARGET_KINDS = ("text", "index")


_NUMBER = re.compile(r"\s*\d{1,9}(\.0*)?\s*")  # tables hold places as 1.0 as well
_LETTER = re.compile(r"\s*[A-Za-z]\s*")
_LAST_FROM_ONE = re.compile(r"answer out of range: '?\s*(\d+)(?:\.0*)?\s*'? with \1 choices")
FROM_ZERO = (
    "answers count from 0: take 1 from each, write letters (A, B, C), or with "
    'metadata.reader: raw write doc_to_target: "{{answer - 1}}" in the task file'
)


class Readings(NamedTuple):
    """Index of the right choice by either reading; None where that reading does not fit."""

    as_text: int | None
    as_index: int | None

    @property
    def differ(self) -> bool:
        """Whether both readings fit and name different choices."""
        return None not in self and self.as_text != self.as_index


def choice_texts(choices: Any) -> Any:
    """Choices with numbers as their text, so that `choices: [0, 1]` can be predicted.

    >>> choice_texts([1999, "2001", 0.5])
    ['1999', '2001', '0.5']
    """
    if isinstance(choices, tuple):
        choices = list(choices)
    if not isinstance(choices, list):
        return choices
    return [str(choice) if _is_number(choice) else choice for choice in choices]


def read_target(target: Any, choices: Sequence[str]) -> Readings:
    """Both readings of a right answer; a letter is a place where it is no choice's text.

    >>> read_target("1", ["1", "0"]), read_target("B", ["dois", "três"])
    (Readings(as_text=0, as_index=1), Readings(as_text=None, as_index=1))
    """
    if not isinstance(target, str) and not _is_number(target):
        return Readings(None, None)
    text = str(target)
    as_text = choices.index(text) if text in choices else None
    as_index = _as_index(target)
    if as_text is None and _LETTER.fullmatch(text):
        as_index = ord(text.strip().upper()) - ord("A")
    if as_index is not None and not 0 <= as_index < len(choices):
        as_index = None
    return Readings(as_text, as_index)


def seems_from_one(reason: str, earlier: Sequence[int]) -> bool:
    """Whether an answer is out of range since answers count from 1: no earlier one is 0.

    >>> seems_from_one("answer out of range: 4 with 4 choices", [2, 1])
    True
    """
    return 0 not in earlier and bool(_LAST_FROM_ONE.fullmatch(reason))


def choose(readings: Readings, kind: TargetKind) -> int | None:
    """The right choice's index; None where the answer cannot be read as `kind`."""
    if kind == "text":
        return readings.as_text
    if kind == "index" or readings.as_text is None:
        return readings.as_index
    return readings.as_text


def kind_of_all(items: Sequence[Readings]) -> TargetKind:
    """The one reading that fits every item; "text" where both do, None where neither does."""
    if not any(item.differ for item in items):
        return None
    if all(item.as_text is not None for item in items):
        return "text"
    return "index" if all(item.as_index is not None for item in items) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_index(target: Any) -> int | None:
    if isinstance(target, str) and not _NUMBER.fullmatch(target):
        return None
    return int(float(target)) if float(target).is_integer() else None
