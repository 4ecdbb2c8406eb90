"""Held-out text and test items that also stand in the training text.

Text is compared as runs of words (lower case, letters and digits only). One pass over the training
documents serves all questions:

- a held-out document that equals a training document word for word is an exact leak;
- one that shares at least 80 % of its runs of 5 words with a single training document is a near
  leak;
- a test item that shares one run of 13 words with any training document is contaminated: the
  measure that the GPT-3 paper made usual. An item of fewer words cannot be checked, and is counted.

A changed word spoils as many runs as they are long. With runs of 13 words, a copy with every 50th
word changed shares 74 % of them and passes for new text; with 5 it shares 90 %. That costs no false
alarms: of 700 documents against 9,457 others (laws, manuals, novels), 6 were near leaks by 13
words and 8 by 5, the two more being a page for iOS beside its twin for Android, and a code
example that extends another.

Runs are compared by 64-bit hashes: for a billion runs against a million, the chance of one false
match is about one in twenty thousand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEM_RUN_WORDS = 13  # one in common is enough, so it must be no figure of speech
NEAR_RUN_WORDS = 5  # four in five must be in common
NEAR_SHARE = 0.8
MAX_KNOWN_WORDS = 2_000_000
_WORD = re.compile(r"[^\W_]+")

Hashes = NDArray[np.uint64]


class WordHasher:
    """Turns a text into one hash a word; equal words give equal hashes.

    Each word gets a random-looking 64-bit number that depends on its letters alone; a run's hash
    is a polynomial in them, so all runs of a document cost one pass.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def words(self, text: str) -> Hashes:
        """The hashes of a text's words, in order."""
        if len(self._known) > MAX_KNOWN_WORDS:
            self._known.clear()
        known = self._known
        numbers = []
        for word in _WORD.findall(text.lower()):
            number = known.get(word)
            if number is None:
                number = known[word] = _hash_word(word)
            numbers.append(number)
        return np.array(numbers, dtype=np.uint64)


def runs(words: Hashes, length: int) -> Hashes:
    """The different hashes of the runs of `length` words; empty for a shorter text."""
    count = len(words) - length + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    hashes = np.zeros(count, np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for offset in range(length):
            hashes = hashes * factor + words[offset : offset + count]
    return np.unique(hashes)


def _whole(words: Hashes) -> int:
    """One hash of all words of a text, in order."""
    return hash(words.tobytes())


def _hash_word(word: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")


@dataclass
class Leaks:
    """Held-out documents that stand in the training text."""

    num_documents: int = 0
    num_exact: int = 0
    num_near: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Contamination:
    """Items of one task that share a run of words with the training text."""

    num_items: int = 0
    num_too_short: int = 0
    num_contaminated: int = 0

    @property
    def num_checked(self) -> int:
        """Items long enough to hold a run."""
        return self.num_items - self.num_too_short

    @property
    def fraction(self) -> float | None:
        """Share of the items that could be checked, 0 to 1; None where none could."""
        return self.num_contaminated / self.num_checked if self.num_checked else None


def item_parts(item: Mapping[str, Any]) -> list[str]:
    """The texts of an item in which a run may lie.

    Question and right answer are one text, as they stand where an item was copied from, so that
    a run may cross from one to the other; wrong choices stand alone. An item in other fields than
    ours (the reader `raw`) gives every text it has.
    """
    before = item.get("question") or item.get("context")
    choices, target = item.get("choices"), item.get("target")
    if isinstance(before, str) and isinstance(target, str):
        return [f"{before} {target.strip()}"]
    if isinstance(choices, list) and isinstance(item.get("gold"), int):
        labels = item.get("labels") or [place == item["gold"] for place in range(len(choices))]
        return [
            f"{before or ''} {choice}" if is_right else choice
            for choice, is_right in zip(choices, labels, strict=True)
        ]
    texts = [
        part for value in item.values() for part in (value if isinstance(value, list) else [value])
    ]
    return [text for text in texts if isinstance(text, str)] or [""]


class OverlapCheck:
    """Collects held-out documents and items first, then reads the training text once."""

    def __init__(self) -> None:
        self._hasher = WordHasher()
        self._ids: list[str] = []  # held-out documents
        self._wholes: dict[int, list[int]] = {}
        self._runs: list[Hashes] = []
        self._items: dict[str, list[Hashes]] = {}

    def add_heldout(self, document_id: str, text: str) -> None:
        """Ask whether this held-out document stands in the training text."""
        words = self._hasher.words(text)
        self._wholes.setdefault(_whole(words), []).append(len(self._ids))
        self._ids.append(document_id)
        self._runs.append(runs(words, NEAR_RUN_WORDS))

    def add_item(self, task: str, parts: Sequence[str]) -> None:
        """Ask whether any part of this item shares a run: see `item_parts`."""
        found = [runs(self._hasher.words(part), ITEM_RUN_WORDS) for part in parts]
        self._items.setdefault(task, []).append(np.unique(np.concatenate(found)))

    def read_training(self, texts: Iterable[str]) -> tuple[Leaks, dict[str, Contamination]]:
        """Read the training documents and answer."""
        sizes = [len(runs) for runs in self._runs]
        hashes = np.concatenate([*self._runs, np.zeros(0, np.uint64)])
        owners = np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(hashes, kind="stable")
        hashes, owners = hashes[order], owners[order]
        rows = [item for items in self._items.values() for item in items]
        wanted = np.unique(np.concatenate([*rows, np.zeros(0, np.uint64)]))
        found = np.zeros(len(wanted), bool)
        best = np.zeros(len(sizes), np.int64)
        exact: set[int] = set()
        for text in texts:
            words = self._hasher.words(text)
            exact.update(self._wholes.get(_whole(words), ()))
            if len(wanted):
                found[_positions(wanted, runs(words, ITEM_RUN_WORDS))] = True
            own = runs(words, NEAR_RUN_WORDS)
            starts = np.searchsorted(hashes, own, "left")
            ends = np.searchsorted(hashes, own, "right")
            hit = ends > starts
            if hit.any():
                pieces = [owners[a:b] for a, b in zip(starts[hit], ends[hit], strict=True)]
                shared = np.bincount(np.concatenate(pieces), minlength=len(sizes))
                np.maximum(best, shared, out=best)
        near = {
            index
            for index, size in enumerate(sizes)
            if size and index not in exact and best[index] >= NEAR_SHARE * size
        }
        leaks = Leaks(
            num_documents=len(sizes),
            num_exact=len(exact),
            num_near=len(near),
            examples=[self._ids[index] for index in sorted(exact | near)[:20]],
        )
        return leaks, self._contamination(wanted[found])

    def _contamination(self, seen: Hashes) -> dict[str, Contamination]:
        answers = {}
        for task, items in self._items.items():
            answer = Contamination(num_items=len(items))
            for item in items:
                answer.num_too_short += not len(item)
                answer.num_contaminated += bool(np.isin(item, seen).any())
            answers[task] = answer
        return answers


def _positions(sorted_values: Hashes, queries: Hashes) -> NDArray[np.int64]:
    """Where those of `queries` stand that occur in `sorted_values`."""
    if not len(sorted_values):
        return np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(sorted_values, queries), len(sorted_values) - 1)
    found: NDArray[np.int64] = at[sorted_values[at] == queries]
    return found
