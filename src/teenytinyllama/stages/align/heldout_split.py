"""Which conversations are held out: a share of the bytes of each source, by a hash of the whole.

Those that ask the same are on one side, wherever they are read from, unless they are more than the
whole share: then equal ones are. A share too small to measure anything is raised, to about 50
conversations or a tenth of the source.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from teenytinyllama.artifacts.conversations import Conversation

MIN_HELDOUT = 50
MAX_RAISED_FRACTION = 0.1


class Candidate(NamedTuple):
    """One conversation or pair: its source, what it asks, a key of the whole, and its size."""

    source: int
    asked: bytes
    whole: bytes
    num_bytes: int


def candidate(source: int, asked: Conversation, answers: Any) -> Candidate:
    """The candidate of the messages before the last answer, and of that answer or of both."""
    data = json.dumps([asked, answers], ensure_ascii=False, sort_keys=True).encode("utf-8")
    question = json.dumps(asked, ensure_ascii=False, sort_keys=True).encode("utf-8")
    whole = hashlib.sha256(data).digest()
    return Candidate(source, hashlib.sha256(question).digest(), whole, len(data))


def choose_heldout(candidates: Sequence[Candidate], fraction: float) -> list[bool]:
    """For each candidate, whether it is held out; some of every source that has two or more."""
    first: dict[bytes, int] = {}
    own: dict[int, list[Candidate]] = defaultdict(list)
    for one in candidates:  # of the source that first asks the same
        own[first.setdefault(one.asked, one.source)].append(one)
    heldout: set[bytes] = set()
    for members in own.values():
        raised = min(MIN_HELDOUT / len({one.whole for one in members}), MAX_RAISED_FRACTION)
        wanted = max(fraction, raised) * sum(one.num_bytes for one in members)
        heldout |= _first_by_hash(members, wanted)
    return [one.whole in heldout for one in candidates]


def _first_by_hash(members: Sequence[Candidate], wanted: float) -> set[bytes]:
    """Wholes of the first groups by hash whose bytes are at most `wanted`, about half at most.

    One at least of two.
    """
    size_of_question: dict[bytes, int] = defaultdict(int)
    for one in members:
        size_of_question[one.asked] += one.num_bytes
    sizes: dict[bytes, int] = defaultdict(int)
    wholes: dict[bytes, set[bytes]] = defaultdict(set)
    for one in members:
        group = one.asked if size_of_question[one.asked] <= wanted else one.whole
        sizes[group] += one.num_bytes
        wholes[group].add(one.whole)
    chosen: set[bytes] = set()
    left = wanted
    for group in sorted(sizes):
        if sizes[group] > wanted:  # copies of one conversation may be most of a source
            continue
        # Beside a conversation as long as a book all others may be a small share.
        if sizes[group] > left or 2 * len(chosen) >= len(sizes):
            break
        chosen |= wholes[group]
        left -= sizes[group]
    if not chosen and len(sizes) > 1:
        chosen = wholes[min(sizes, key=lambda group: (sizes[group], group))]
    return chosen
