"""Which requests share one forward pass, and what each of their tokens may attend to.

A request asks for the log-probability of a continuation after a context. The choices of one
question share their context, and contexts often share a prefix (the few-shot examples). Scored one
by one, 25 examples are read again for every choice of every question. Here:

1. requests with the same context become one token tree: the context, then a branch for each
   continuation; continuations that begin alike share nodes;
2. contexts that begin alike form a cluster, whose prefix is read once and stays in the KV cache;
3. short trees are packed into rows without padding. The mask lets each token see the prefix and its
   own ancestors, and its position is its depth:

       tokens     A B C x y z D E u v        two trees after a prefix of 3
       parents    . 0 1 2 3 2 . 6 7 7        x y and z are choices after A B C, u and v after D E
       positions  3 4 5 6 7 6 3 4 5 5

4. a long context gets a row of its own and is prefilled as plain text (causal attention is cheaper
   than a mask, and the last layer is needed for keys and values only), then its tree is scored;
5. rows of similar length form a batch: one forward pass, two with prefill.

The plan depends on the requests alone, so a resumed evaluation has the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A prefix is worth a forward pass of its own if a cluster shares at least this many tokens.
MIN_PREFIX_TOKENS = 16
# Masked attention grows with the square of a row, and short rows use the device badly.
ROW_TOKENS = 256
# Longer contexts, the shared prefix not counted, are prefilled.
MAX_PACKED_CONTEXT = 192
MAX_SPLITS = 64
MAX_OPEN_ROWS = 64

Ids = tuple[int, ...]


class LoglikelihoodRequest(NamedTuple):
    """A context and a continuation, neither empty, cut to what the model can read."""

    context: Ids
    continuation: Ids


class ContinuationBranch(NamedTuple):
    """The nodes of a tree at which the tokens of one continuation are predicted."""

    request: LoglikelihoodRequest
    nodes: Ids


@dataclass
class TokenTree:
    """The unread part of one context, and its continuations as branches.

    Node `i` holds `tokens[i]` and follows node `parents[i]` (-1: what was read before the tree).
    The context is the first `context_length` nodes.
    """

    tokens: list[int]
    parents: list[int]
    context_length: int
    branches: list[ContinuationBranch] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.tokens)


@dataclass
class PackedRow:
    """Trees packed end to end. A row with `prefill`, which is read first, has a single tree."""

    trees: list[TokenTree]
    prefill: Ids = ()

    @property
    def size(self) -> int:
        """Tokens of all trees."""
        return sum(tree.size for tree in self.trees)


@dataclass
class PackedBatch:
    """Rows that share a forward pass after the same prefix."""

    prefix: Ids
    rows: list[PackedRow]

    @property
    def length(self) -> int:
        """Tokens of the longest row, prefill not counted."""
        return max(row.size for row in self.rows)

    @property
    def prefill_length(self) -> int:
        """Tokens of the longest prefill."""
        return max(len(row.prefill) for row in self.rows)

    def requests(self) -> list[LoglikelihoodRequest]:
        """All requests of this batch."""
        return [
            branch.request for row in self.rows for tree in row.trees for branch in tree.branches
        ]


def truncate_left(
    context: Sequence[int], continuation: Sequence[int], max_length: int
) -> LoglikelihoodRequest:
    """Cut a request's context from the left to what the model can read at once.

    The last token is predicted but never read, so `max_length + 1` tokens fit in all.
    AssertionError for a continuation longer than `max_length`.
    """
    assert context and continuation
    assert len(continuation) <= max_length, "continuation longer than the model's context"
    kept = max_length + 1 - len(continuation)
    return LoglikelihoodRequest(tuple(context[-kept:]), tuple(continuation))


def plan_batches(
    requests: Sequence[LoglikelihoodRequest],
    batch_tokens: int,
    *,
    max_packed_context: int = MAX_PACKED_CONTEXT,
) -> list[PackedBatch]:
    """Batches that answer all requests, each distinct request once; the largest first.

    `batch_tokens` bounds the tokens of a forward pass, padding included, unless a single row is
    longer. Batches with the same prefix follow each other, so that it is read once.
    """
    by_context: dict[Ids, set[Ids]] = {}
    for request in requests:
        by_context.setdefault(request.context, set()).add(request.continuation)
    contexts = sorted(by_context)
    batches: list[PackedBatch] = []
    for start, end, shared in cluster_contexts(contexts):
        prefix = contexts[start][:shared]
        trees, prefilled = [], []
        for context in contexts[start:end]:
            continuations = sorted(by_context[context])
            if len(context) - shared <= max_packed_context:
                trees.append(build_tree(context, shared, continuations))
            else:
                tree = build_tree(context, len(context) - 1, continuations)
                prefilled.append(PackedRow([tree], context[shared:-1]))
        rows = _pack_rows(trees, min(ROW_TOKENS, batch_tokens))
        batches.extend(_group_rows(prefix, rows, batch_tokens))
        batches.extend(_group_rows(prefix, prefilled, batch_tokens))
    batches.sort(key=lambda batch: -len(batch.rows) * (batch.length + batch.prefill_length))
    order: dict[Ids, int] = {}
    for batch in batches:
        order.setdefault(batch.prefix, len(order))
    batches.sort(key=lambda batch: order[batch.prefix])
    return batches


def _pack_rows(trees: list[TokenTree], row_tokens: int) -> list[PackedRow]:
    """Pack trees into rows by first fit, the largest first.

    Only the youngest rows stay open: that wastes little space and stays linear.
    """
    rows: list[PackedRow] = []
    open_rows: list[tuple[int, PackedRow]] = []  # (free tokens, row)
    for tree in sorted(trees, key=lambda tree: -tree.size):
        for index, (free, row) in enumerate(open_rows):
            if tree.size <= free:
                row.trees.append(tree)
                open_rows[index] = (free - tree.size, row)
                break
        else:
            row = PackedRow([tree])
            rows.append(row)
            open_rows = [*open_rows[1 - MAX_OPEN_ROWS :], (row_tokens - tree.size, row)]
    return rows


def _group_rows(prefix: Ids, rows: list[PackedRow], batch_tokens: int) -> list[PackedBatch]:
    """Batches of rows of similar length."""
    rows = sorted(rows, key=lambda row: (-len(row.prefill) - row.size, -row.size))
    batches: list[PackedBatch] = []
    while rows:
        count = max(1, batch_tokens // (len(rows[0].prefill) + rows[0].size))
        batches.append(PackedBatch(prefix, rows[:count]))
        rows = rows[count:]
    return batches


def build_tree(context: Ids, num_read: int, continuations: Sequence[Ids]) -> TokenTree:
    """The tree of one context, whose first `num_read` tokens are read before it.

    >>> tree = build_tree((7, 8, 9), 1, [(1, 2), (1, 3), (4,)])
    >>> tree.tokens, tree.parents, [branch.nodes for branch in tree.branches]
    ([8, 9, 1], [-1, 0, 1], [(1, 2), (1, 2), (1,)])
    """
    length = len(context) - num_read
    tree = TokenTree(list(context[num_read:]), list(range(-1, length - 1)), length)
    children: dict[tuple[int, int], int] = {}
    for continuation in continuations:
        node = length - 1
        nodes = [node]
        for token in continuation[:-1]:  # the last token is predicted and never read
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = tree.size
                tree.tokens.append(token)
                tree.parents.append(node)
            node = child
            nodes.append(node)
        request = LoglikelihoodRequest(context, continuation)
        tree.branches.append(ContinuationBranch(request, tuple(nodes)))
    return tree


def cluster_contexts(contexts: Sequence[Ids]) -> list[tuple[int, int, int]]:
    """Cut sorted contexts into clusters `(start, end, shared)` with a prefix of `shared` tokens.

    A cluster is split where separate prefixes of its parts save more. The last token of a context
    is never part of the prefix: what follows it is to be predicted.

    >>> cluster_contexts([(1,) * 20 + (5, 5), (1,) * 20 + (6, 6), (2, 3)])
    [(0, 2, 20), (2, 3, 0)]
    """
    common = [_common_prefix(a, b) for a, b in pairwise(contexts)]
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
    return _join_without_prefix(sorted(found))


def _better_split(parts: list[tuple[int, int]], common: list[int], shared: int) -> bool:
    """True where a prefix for each part saves more tokens than the shared one does.

    A prefix of `p` tokens over `n` contexts saves `(n - 1) * p`.
    """
    together = (parts[-1][1] - parts[0][0] - 1) * shared
    apart = sum(
        (end - start - 1) * min(common[start : end - 1]) for start, end in parts if end - start > 1
    )
    return apart > together


def _join_without_prefix(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Join neighbouring clusters without a prefix, so that they may share rows."""
    joined: list[tuple[int, int, int]] = []
    for start, end, shared in found:
        if joined and shared == 0 and joined[-1][2] == 0 and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end, 0)
        else:
            joined.append((start, end, shared))
    return joined


def _common_prefix(a: Ids, b: Ids) -> int:
    """Number of equal first tokens, by bisection: slices compare at the speed of C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def attention_mask(batch: PackedBatch) -> NDArray[np.bool_]:
    """What each token attends to: (rows, length, prefix + prefill + length), True is visible."""
    prefix, prefill, length = len(batch.prefix), batch.prefill_length, batch.length
    mask = np.zeros((len(batch.rows), length, prefix + prefill + length), dtype=bool)
    # Padding sees something too: softmax over nothing is NaN.
    mask[:, :, :prefix] = True
    if not prefix:
        mask[:, :, prefix + prefill :][:, np.arange(length), np.arange(length)] = True
    for own, row in zip(mask, batch.rows, strict=True):
        own[: row.size, prefix : prefix + len(row.prefill)] = True
        offset = 0
        for tree in row.trees:
            start, context = prefix + prefill + offset, tree.context_length
            own[offset : offset + context, start : start + context] = np.tri(context, dtype=bool)
            for node in range(context, tree.size):
                own[offset + node, start:] = own[offset + tree.parents[node], start:]
                own[offset + node, start + node] = True
            offset += tree.size
    return mask


def position_ids(batch: PackedBatch) -> NDArray[np.int64]:
    """Depth of each token, prefix and prefill counted: (rows, length)."""
    depths = np.zeros((len(batch.rows), batch.length), np.int64)
    for own, row in zip(depths, batch.rows, strict=True):
        before = len(batch.prefix) + len(row.prefill)
        offset = 0
        for tree in row.trees:
            for node, parent in enumerate(tree.parents):
                own[offset + node] = before if parent < 0 else own[offset + parent] + 1
            offset += tree.size
    return depths


def input_ids(batch: PackedBatch) -> NDArray[np.int64]:
    """The tokens of all trees, padded with 0: (rows, length)."""
    flat = [[token for tree in row.trees for token in tree.tokens] for row in batch.rows]
    return _pad(flat, batch.length)


def prefill_ids(batch: PackedBatch) -> NDArray[np.int64]:
    """The rows' prefill tokens, padded with 0: (rows, prefill length)."""
    return _pad([row.prefill for row in batch.rows], batch.prefill_length)


def _pad(rows: Sequence[Sequence[int]], length: int) -> NDArray[np.int64]:
    ids = np.zeros((len(rows), length), np.int64)
    for own, row in zip(ids, rows, strict=True):
        own[: len(row)] = row
    return ids
