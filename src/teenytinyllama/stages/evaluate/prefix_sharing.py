"""Which tokens of which requests share one forward pass, and what each may see.

A request asks for the log-probability of a continuation after a context. The choices of one
question share their context, and contexts often share their first part (the solved examples).
Scored one by one, 25 examples are read again for every choice of every question. Here:

1. requests with the same context become one *tree*: the context, and a branch for each choice;
   equal beginnings of choices are one branch;
2. contexts that begin alike form a *cluster*, whose shared *prefix* is read once and kept;
3. short trees are laid end to end in *lanes*, without padding. A mask lets each token see the
   prefix and its own ancestors, and its position is its depth:

       tokens     A B C x y z D E u v        two trees after a prefix of 3
       parents    . 0 1 2 3 2 . 6 7 7        x y and z are choices after A B C, u and v after D E
       positions  3 4 5 6 7 6 3 4 5 5

4. a long context gets a lane of its own and is read first as plain text (its *stem*: cheaper
   attention, and the last layer is needed for keys and values only), then its branches;
5. lanes of like length form a *batch*: one forward pass, two where there are stems.

The plan depends on the requests alone, so an interrupted evaluation goes on with the same batches.
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
# Attention inside a lane grows with its square, and a pass over few tokens is slow: between them.
LANE_TOKENS = 256
# Contexts longer than this, the shared prefix not counted, are read as a stem.
MAX_PACKED_CONTEXT = 192
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
    """One context, what is read before it left out, and its continuations as branches.

    Node `i` holds `tokens[i]` and hangs on `parents[i]` (-1: on what was read before). The
    context is the first `trunk` nodes, one after the other.
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
class Lane:
    """Trees laid end to end; `stem` is read before them, and only where there is a single tree."""

    trees: list[Tree]
    stem: Ids = ()

    @property
    def size(self) -> int:
        """Tokens of the lane, its stem not counted."""
        return sum(tree.size for tree in self.trees)


@dataclass
class Batch:
    """Lanes that share a forward pass after the same prefix."""

    prefix: Ids
    lanes: list[Lane]

    @property
    def length(self) -> int:
        """Tokens of the longest lane, stems not counted."""
        return max(lane.size for lane in self.lanes)

    @property
    def stem_length(self) -> int:
        """Tokens of the longest stem."""
        return max(len(lane.stem) for lane in self.lanes)

    def requests(self) -> list[Request]:
        """All requests that this batch answers."""
        return [
            branch.request for lane in self.lanes for tree in lane.trees for branch in tree.branches
        ]


def fit(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
    """Cut a request from the left to what the model can read at once.

    The last token is only predicted, never read, so `max_length + 1` tokens fit in all. A
    continuation longer than the model's context has no meaning there: AssertionError.
    """
    assert context and continuation
    assert len(continuation) <= max_length, "continuation longer than the model's context"
    kept = max_length + 1 - len(continuation)
    return Request(tuple(context[-kept:]), tuple(continuation))


def plan_batches(
    requests: Sequence[Request],
    batch_tokens: int,
    *,
    max_packed_context: int = MAX_PACKED_CONTEXT,
) -> list[Batch]:
    """Batches that answer all requests, each different request once; the largest first.

    `batch_tokens` bounds the tokens of a forward pass, padding included, unless a single lane is
    longer. Batches with the same prefix follow one another, so that it is read once.
    """
    by_context: dict[Ids, set[Ids]] = {}
    for request in requests:
        by_context.setdefault(request.context, set()).add(request.continuation)
    contexts = sorted(by_context)
    batches: list[Batch] = []
    for start, end, shared in clusters(contexts):
        prefix = contexts[start][:shared]
        trees, stems = [], []
        for context in contexts[start:end]:
            continuations = sorted(by_context[context])
            if len(context) - shared <= max_packed_context:
                trees.append(grow(context, shared, continuations))
            else:
                tree = grow(context, len(context) - 1, continuations)
                stems.append(Lane([tree], context[shared:-1]))
        lanes = _fill(trees, min(LANE_TOKENS, batch_tokens))
        batches.extend(_group(prefix, lanes, batch_tokens))
        batches.extend(_group(prefix, stems, batch_tokens))
    batches.sort(key=lambda batch: -len(batch.lanes) * (batch.length + batch.stem_length))
    place: dict[Ids, int] = {}
    for batch in batches:
        place.setdefault(batch.prefix, len(place))
    batches.sort(key=lambda batch: place[batch.prefix])
    return batches


def _fill(trees: list[Tree], lane_tokens: int) -> list[Lane]:
    """Lay trees into lanes, the largest first, each into the first lane with stage among the last.

    Only the 64 youngest lanes are tried: that leaves little stage unused and stays linear.
    """
    lanes: list[Lane] = []
    open_lanes: list[tuple[int, Lane]] = []  # (stage, lane)
    for tree in sorted(trees, key=lambda tree: -tree.size):
        for index, (stage, lane) in enumerate(open_lanes):
            if tree.size <= stage:
                lane.trees.append(tree)
                open_lanes[index] = (stage - tree.size, lane)
                break
        else:
            lane = Lane([tree])
            lanes.append(lane)
            open_lanes = [*open_lanes[-63:], (lane_tokens - tree.size, lane)]
    return lanes


def _group(prefix: Ids, lanes: list[Lane], batch_tokens: int) -> list[Batch]:
    """Lanes of like length side by side."""
    lanes = sorted(lanes, key=lambda lane: (-len(lane.stem) - lane.size, -lane.size))
    batches: list[Batch] = []
    while lanes:
        count = max(1, batch_tokens // (len(lanes[0].stem) + lanes[0].size))
        batches.append(Batch(prefix, lanes[:count]))
        lanes = lanes[count:]
    return batches


def grow(context: Ids, before: int, continuations: Sequence[Ids]) -> Tree:
    """The tree of one context, its first `before` tokens left to what is read before.

    >>> tree = grow((7, 8, 9), 1, [(1, 2), (1, 3), (4,)])
    >>> tree.tokens, tree.parents, [branch.nodes for branch in tree.branches]
    ([8, 9, 1], [-1, 0, 1], [(1, 2), (1, 2), (1,)])
    """
    trunk = len(context) - before
    tree = Tree(list(context[before:]), list(range(-1, trunk - 1)), trunk)
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
        lowest = min(inner, default=0)
        shared = min(lowest, min(lengths[start:end]) - 1)
        cuts = [start + 1 + i for i, value in enumerate(inner) if value == lowest]
        parts = list(pairwise([start, *cuts, end]))
        worth = shared >= MIN_PREFIX_TOKENS
        if inner and (not worth or _better_split(parts, common, shared)) and splits < MAX_SPLITS:
            waiting.extend((a, b, splits + 1) for a, b in parts if b - a > 1)
            found.extend((a, b, 0) for a, b in parts if b - a == 1)
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
    """Neighbouring contexts without a prefix may share lanes: make them one run."""
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


def visibility(batch: Batch) -> NDArray[np.bool_]:
    """What each token may see: (lanes, length, prefix + stem + length), True is visible."""
    prefix, stems, length = len(batch.prefix), batch.stem_length, batch.length
    seen = np.zeros((len(batch.lanes), length, prefix + stems + length), dtype=bool)
    seen[:, :, :prefix] = True  # padding too: a token that sees nothing has no softmax
    if not prefix:
        seen[:, :, prefix + stems :][:, np.arange(length), np.arange(length)] = True
    for own, lane in zip(seen, batch.lanes, strict=True):
        own[: lane.size, prefix : prefix + len(lane.stem)] = True
        offset = 0
        for tree in lane.trees:
            start, trunk = prefix + stems + offset, tree.trunk
            own[offset : offset + trunk, start : start + trunk] = np.tri(trunk, dtype=bool)
            for node in range(trunk, tree.size):
                own[offset + node, start:] = own[offset + tree.parents[node], start:]
                own[offset + node, start + node] = True
            offset += tree.size
    return seen


def positions(batch: Batch) -> NDArray[np.int64]:
    """Depth of each token, prefix and stem counted: (lanes, length)."""
    depths = np.zeros((len(batch.lanes), batch.length), np.int64)
    for row, lane in zip(depths, batch.lanes, strict=True):
        before = len(batch.prefix) + len(lane.stem)
        offset = 0
        for tree in lane.trees:
            for node, parent in enumerate(tree.parents):
                row[offset + node] = before if parent < 0 else row[offset + parent] + 1
            offset += tree.size
    return depths


def tokens(batch: Batch) -> NDArray[np.int64]:
    """The lanes' tokens, padded with 0: (lanes, length)."""
    ids = np.zeros((len(batch.lanes), batch.length), np.int64)
    for row, lane in zip(ids, batch.lanes, strict=True):
        flat = [token for tree in lane.trees for token in tree.tokens]
        row[: len(flat)] = flat
    return ids


def stems(batch: Batch) -> NDArray[np.int64]:
    """The lanes' stems, padded with 0: (lanes, stem length)."""
    ids = np.zeros((len(batch.lanes), batch.stem_length), np.int64)
    for row, lane in zip(ids, batch.lanes, strict=True):
        row[: len(lane.stem)] = lane.stem
    return ids
