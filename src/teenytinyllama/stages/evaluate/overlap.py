"""Held-out text and test items that also stand in the training text.

Text is compared as runs of 13 words (lower case, letters and digits only), the measure that the
GPT-3 paper made usual. One pass over the training documents serves all questions:

- a held-out document that equals a training document word for word is an exact leak;
- one that shares at least 80 % of its runs with a single training document is a near leak;
- a test item that shares one run with any training document is contaminated.

Runs are compared by 64-bit hashes: for a billion runs against a million, the chance of one false
match is about one in twenty thousand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RUN_WORDS = 13
NEAR_SHARE = 0.8
MAX_KNOWN_WORDS = 2_000_000
_WORD = re.compile(r"[^\W_]+")

Hashes = NDArray[np.uint64]


class RunHasher:
    """Turns a text into the hashes of its runs of 13 words; equal runs give equal hashes.

    Each word gets a random-looking 64-bit number that depends on its letters alone; a run's hash
    is a polynomial in them, so all runs of a document cost one pass.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def words(self, text: str) -> Hashes:
        """One hash a word."""
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

    def runs(self, text: str) -> Hashes:
        """One hash for each run of 13 words, in order; empty for a shorter text."""
        words = self.words(text)
        count = len(words) - RUN_WORDS + 1
        if count <= 0:
            return np.zeros(0, np.uint64)
        hashes = np.zeros(count, np.uint64)
        factor = np.uint64(0x9E3779B97F4A7C15)
        with np.errstate(over="ignore"):
            for offset in range(RUN_WORDS):
                hashes = hashes * factor + words[offset : offset + count]
        return hashes

    def whole(self, text: str) -> int:
        """One hash of all words of a text, in order."""
        return hash(self.words(text).tobytes())


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
    """Items of one task that share a run of 13 words with the training text."""

    num_items: int = 0
    num_too_short: int = 0
    num_contaminated: int = 0

    @property
    def fraction(self) -> float:
        """Share of all items, 0 to 1."""
        return self.num_contaminated / self.num_items if self.num_items else 0.0


class OverlapCheck:
    """Collects held-out documents and items first, then reads the training text once."""

    def __init__(self) -> None:
        self._hasher = RunHasher()
        self._ids: list[str] = []  # held-out documents
        self._wholes: dict[int, list[int]] = {}
        self._runs: list[Hashes] = []
        self._items: dict[str, list[Hashes]] = {}

    def add_heldout(self, document_id: str, text: str) -> None:
        """Ask whether this held-out document stands in the training text."""
        self._wholes.setdefault(self._hasher.whole(text), []).append(len(self._ids))
        self._ids.append(document_id)
        self._runs.append(np.unique(self._hasher.runs(text)))

    def add_item(self, task: str, parts: Sequence[str]) -> None:
        """Ask whether any part of this item (its question, each choice) shares a run."""
        runs = [self._hasher.runs(part) for part in parts]
        self._items.setdefault(task, []).append(np.unique(np.concatenate(runs)))

    def read_training(self, texts: Iterable[str]) -> tuple[Leaks, dict[str, Contamination]]:
        """Read the training documents and answer."""
        sizes = [len(runs) for runs in self._runs]
        hashes = np.concatenate([*self._runs, np.zeros(0, np.uint64)])
        owners = np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(hashes, kind="stable")
        hashes, owners = hashes[order], owners[order]
        rows = [runs for items in self._items.values() for runs in items]
        wanted = np.unique(np.concatenate([*rows, np.zeros(0, np.uint64)]))
        found = np.zeros(len(wanted), bool)
        best = np.zeros(len(sizes), np.int64)
        exact: set[int] = set()
        for text in texts:
            exact.update(self._wholes.get(self._hasher.whole(text), ()))
            runs = np.unique(self._hasher.runs(text))
            if not len(runs):
                continue
            found[_positions(wanted, runs)] = True
            starts = np.searchsorted(hashes, runs, "left")
            ends = np.searchsorted(hashes, runs, "right")
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
            for runs in items:
                answer.num_too_short += not len(runs)
                answer.num_contaminated += bool(np.isin(runs, seen).any())
            answers[task] = answer
        return answers


def _positions(sorted_values: Hashes, queries: Hashes) -> NDArray[np.int64]:
    """Where those of `queries` stand that occur in `sorted_values`."""
    if not len(sorted_values):
        return np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(sorted_values, queries), len(sorted_values) - 1)
    found: NDArray[np.int64] = at[sorted_values[at] == queries]
    return found
