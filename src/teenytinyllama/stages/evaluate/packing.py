"""Which tokens of which requests share one forward pass, and what each may see.

A request asks for the log-probability of a continuation after a context. The choices of one
question share their context, and contexts often share their first part (the solved examples).
Scored one by one, 25 examples are read again for every choice of every question. Here:

1. requests with the same context become one *tree*: the context, and a branch for each choice;
   equal beginnings of choices are one branch;
2. contexts that begin alike form a *cluster*, whose shared *prefix* is read once and kept;
3. trees are laid end to end in *rows* of bounded length, without padding. A mask lets each token
   see the prefix and its own ancestors, and its position is its depth:

       tokens     A B C x y z D E u v        two trees after a prefix of 3
       parents    . 0 1 2 3 2 . 6 7 7        x y and z are choices after A B C, u and v after D E
       positions  3 4 5 6 7 6 3 4 5 5

The plan depends on the requests alone, so an interrupted evaluation goes on with the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A prefix is worth a pass of its own when its cluster shares at least this many tokens.
MIN_PREFIX_TOKENS = 16
MAX_SPLITS = 64

Ids = tuple[int, ...]


class Request(NamedTuple):
    """A context (never empty) and a continuation (never empty), cut to what the model can read."""

    context: Ids
    continuation: Ids


class Branch(NamedTuple):
    """Where the tokens of one continuation are predicted: node numbers inside its tree."""

    request: Request
    nodes: Ids


@dataclass
class Tree:
    """One context after the prefix, and its continuations as branches.

    Node `i` holds `tokens[i]` and hangs on `parents[i]` (-1: on the prefix). The context is the
    first `trunk` nodes, one after the other.
    """

    tokens: list[int]
    parents: list[int]
    trunk: int
    branches: list[Branch] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.tokens)


@dataclass
class Row:
    """Trees that share one forward pass after the same prefix."""

    prefix: Ids
    trees: list[Tree]

    @property
    def size(self) -> int:
        """Tokens of the row, the prefix not counted."""
        return sum(tree.size for tree in self.trees)

    def requests(self) -> list[Request]:
        """All requests that this row answers."""
        return [branch.request for tree in self.trees for branch in tree.branches]


def fit(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
    """Cut a request from the left to what the model can read at once.

    The last token is only predicted, never read, so `max_length + 1` tokens fit in all. A
    continuation longer than the model's context has no meaning there: AssertionError.
    """
    assert context and continuation
    assert len(continuation) <= max_length, "continuation longer than the model's context"
    kept = max_length + 1 - len(continuation)
    return Request(tuple(context[-kept:]), tuple(continuation))


def plan_rows(requests: Sequence[Request], row_tokens: int) -> list[Row]:
    """Rows that answer all requests, each different request once; the largest rows first.

    `row_tokens` bounds a row; a tree larger than that gets a row of its own.
    """
    by_context: dict[Ids, set[Ids]] = {}
    for request in requests:
        by_context.setdefault(request.context, set()).add(request.continuation)
    contexts = sorted(by_context)
    rows: list[Row] = []
    for start, end, shared in clusters(contexts):
        prefix = contexts[start][:shared]
        trees = [grow(c, shared, sorted(by_context[c])) for c in contexts[start:end]]
        rows.extend(_fill(prefix, trees, row_tokens))
    rows.sort(key=lambda row: -(len(row.prefix) + row.size))
    # Rows with the same prefix follow one another, so that it is read once.
    first_place: dict[Ids, int] = {}
    for place, row in enumerate(rows):
        first_place.setdefault(row.prefix, place)
    rows.sort(key=lambda row: first_place[row.prefix])
    return rows


def _fill(prefix: Ids, trees: list[Tree], row_tokens: int) -> list[Row]:
    rows: list[Row] = []
    room = 0
    for tree in sorted(trees, key=lambda tree: -tree.size):
        if not rows or tree.size > room:
            rows.append(Row(prefix, []))
            room = max(row_tokens, tree.size)
        rows[-1].trees.append(tree)
        room -= tree.size
    return rows


def grow(context: Ids, shared: int, continuations: Sequence[Ids]) -> Tree:
    """The tree of one context, its first `shared` tokens left to the prefix.

    >>> tree = grow((7, 8, 9), 1, [(1, 2), (1, 3), (4,)])
    >>> tree.tokens, tree.parents, [branch.nodes for branch in tree.branches]
    ([8, 9, 1], [-1, 0, 1], [(1, 2), (1, 2), (1,)])
    """
    trunk = len(context) - shared
    tree = Tree(list(context[shared:]), list(range(-1, trunk - 1)), trunk)
    children: dict[tuple[int, int], int] = {}
    for continuation in continuations:
        node = trunk - 1
        nodes = [node]
        for token in continuation[:-1]:  # the last token is predicted and never read
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = tree.size
                tree.tokens.append(token)
                tree.parents.append(node)
            node = child
            nodes.append(node)
        tree.branches.append(Branch(Request(context, continuation), tuple(nodes)))
    return tree


def clusters(contexts: Sequence[Ids]) -> list[tuple[int, int, int]]:
    """Cut sorted contexts into runs `(start, end, shared)` that share their first tokens.

    A run is split where its parts share so much more that reading each part's own prefix costs
    less. The last token of a context never belongs to the prefix: its prediction is wanted.

    >>> clusters([(1,) * 20 + (5, 5), (1,) * 20 + (6, 6), (2, 3)])
    [(0, 2, 20), (2, 3, 0)]
    """
    common = [_common(a, b) for a, b in pairwise(contexts)]
    lengths = [len(context) for context in contexts]
    found: list[tuple[int, int, int]] = []
    waiting = [(0, len(contexts), 0)]
    while waiting:
        start, end, splits = waiting.pop()
        if end - start < 1:
            continue
        inner = common[start : end - 1]
        shared = min([*inner, min(lengths[start:end]) - 1]) if inner else 0
        lowest = min(inner, default=0)
        cuts = [start + 1 + i for i, value in enumerate(inner) if value == lowest]
        bounds = [start, *cuts, end]
        parts = list(pairwise(bounds))
        worth = shared >= MIN_PREFIX_TOKENS
        if inner and (not worth or _better_split(parts, common, shared)) and splits < MAX_SPLITS:
            loose = [(a, b) for a, b in parts if b - a == 1]
            waiting.extend((a, b, splits + 1) for a, b in parts if b - a > 1)
            found.extend((a, b, 0) for a, b in loose)
        else:
            found.append((start, end, shared if worth else 0))
    return _join_loose(sorted(found))


def _better_split(parts: list[tuple[int, int]], common: list[int], shared: int) -> bool:
    """True where giving each part its own prefix saves more tokens than the shared one does.

    A prefix of `p` tokens over `n` contexts saves `(n - 1) * p`.
    """
    together = (parts[-1][1] - parts[0][0] - 1) * shared
    apart = sum(
        (end - start - 1) * min(common[start : end - 1]) for start, end in parts if end - start > 1
    )
    return apart > together


def _join_loose(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Neighbouring contexts without a prefix may share rows: make them one run."""
    joined: list[tuple[int, int, int]] = []
    for start, end, shared in found:
        if joined and shared == 0 and joined[-1][2] == 0 and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end, 0)
        else:
            joined.append((start, end, shared))
    return joined


def _common(a: Ids, b: Ids) -> int:
    """Number of equal first tokens."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # slices compare at the speed of C, so halving beats walking
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def visibility(row: Row) -> NDArray[np.bool_]:
    """Which positions each token of a row may see: (size, len(prefix) + size), True is visible."""
    before = len(row.prefix)
    seen = np.zeros((row.size, before + row.size), dtype=bool)
    seen[:, :before] = True
    offset = 0
    for tree in row.trees:
        start, trunk = before + offset, tree.trunk
        seen[offset : offset + trunk, start : start + trunk] = np.tri(trunk, dtype=bool)
        for node in range(trunk, tree.size):
            seen[offset + node] = seen[offset + tree.parents[node]]
            seen[offset + node, start + node] = True
        offset += tree.size
    return seen


def positions(row: Row) -> list[int]:
    """Depth of each token of a row, the prefix counted."""
    depths: list[int] = []
    for tree in row.trees:
        own: list[int] = []
        for parent in tree.parents:
            own.append(len(row.prefix) if parent < 0 else own[parent] + 1)
        depths.extend(own)
    return depths
