"""The plan answers every request once; each token sees its prefix and its ancestors."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from teenytinyllama.stages.evaluate.prefix_sharing import (
    LoglikelihoodRequest,
    PackedBatch,
    PackedRow,
    attention_mask,
    build_tree,
    input_ids,
    plan_batches,
    position_ids,
    prefill_ids,
    truncate_left,
)


def random_requests(count: int) -> list[LoglikelihoodRequest]:
    draw = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(50) for _ in range(length))

    shared = ids(40)
    contexts = [(shared if n % 2 else ()) + ids(draw.randrange(1, 300)) for n in range(count)]
    return [LoglikelihoodRequest(c, ids(draw.randrange(1, 6))) for c in contexts for _ in range(3)]


@pytest.mark.parametrize("batch_tokens", [1, 300, 10_000])
def test_each_request_is_answered_once_within_the_token_limit(batch_tokens):
    requests = random_requests(40)
    batches = plan_batches([*requests, *requests], batch_tokens)
    planned = [request for batch in batches for request in batch.requests()]
    assert sorted(planned) == sorted(set(requests))
    for batch in batches:
        tokens = len(batch.rows) * (batch.length + batch.prefill_length)
        assert tokens <= batch_tokens or len(batch.rows) == 1
    prefixes = [batch.prefix for batch in batches]
    changes = sum(a != b for a, b in pairwise(prefixes))
    assert changes == len(set(prefixes)) - 1, "batches with one prefix follow each other"


def test_every_path_of_a_tree_spells_context_and_continuation():
    requests = random_requests(40)
    for batch in plan_batches(requests, 500):
        for row in batch.rows:
            for tree in row.trees:
                for branch in tree.branches:
                    node, path = branch.nodes[-1], []
                    while node >= 0:
                        path.append(tree.tokens[node])
                        node = tree.parents[node]
                    read = (*batch.prefix, *row.prefill, *reversed(path))
                    request = branch.request
                    assert read == request.context + request.continuation[:-1]


def test_mask_and_positions_of_two_packed_trees():
    """The example of the module docstring: trees of 6 and 4 nodes after a prefix of 3."""
    prefix = (1, 2, 3)
    trees = [
        build_tree((*prefix, 11, 12, 13), 3, [(21, 22, 9), (23, 9)]),
        build_tree((*prefix, 14, 15), 3, [(24, 9), (25, 9)]),
    ]
    batch = PackedBatch(prefix, [PackedRow(trees)])
    assert input_ids(batch).tolist() == [[11, 12, 13, 21, 22, 23, 14, 15, 24, 25]]
    assert position_ids(batch).tolist() == [[3, 4, 5, 6, 7, 6, 3, 4, 5, 5]]
    mask = attention_mask(batch)[0]
    assert mask[:, :3].all()
    seen = [set(np.flatnonzero(row[3:]).tolist()) for row in mask]
    assert seen[4] == {0, 1, 2, 3, 4}
    assert seen[5] == {0, 1, 2, 5}
    assert seen[9] == {6, 7, 9}


def test_padding_is_masked_and_prefill_is_visible():
    rows = [
        PackedRow([build_tree((7, 8, 9), 2, [(1,)])], prefill=(7, 8)),
        PackedRow([build_tree((5, 6), 1, [(1, 2)])], prefill=(5,)),
    ]
    batch = PackedBatch((), rows)
    assert prefill_ids(batch).tolist() == [[7, 8], [5, 0]]
    assert position_ids(batch).tolist() == [[2, 0], [1, 2]]
    mask = attention_mask(batch)
    assert mask[0, 0].tolist() == [True, True, True, False]
    assert mask[1, 1].tolist() == [True, False, True, True]
    assert mask.any(-1).all(), "softmax over nothing is NaN"


def test_context_is_truncated_from_the_left():
    assert truncate_left([1, 2, 3, 4], [5, 6], 4) == ((2, 3, 4), (5, 6))
    with pytest.raises(AssertionError):
        truncate_left([1], [2, 3, 4], 2)
