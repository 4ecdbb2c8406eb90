"""Every epoch has every token once, in another order of documents."""

from itertools import pairwise

import numpy as np
import pytest

from teenytinyllama.artifacts.tokens import TokenWriter, open_tokens, write_index
from teenytinyllama.stages.pretrain.document_layout import DocumentLayout

LENGTH = 8


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """40 documents of 2 to 30 tokens; every token of a document is its number."""
    folder = tmp_path_factory.mktemp("pack")
    random = np.random.default_rng(0)
    entries = {}
    for split in ("train", "heldout"):
        with TokenWriter(folder, split, 640) as writer:
            for number in range(40):
                writer.write([number] * int(random.integers(2, 31)))
        entries[split] = writer.entry
    write_index(folder, 640, "0" * 64, entries)
    return open_tokens(folder, "train")


def stream(layout, epoch):
    """The tokens of an epoch's complete rows, each of which ends with the first of the next."""
    n = layout.num_sequences
    rows = [layout.sequence(epoch * n + i, LENGTH) for i in range(n)]
    assert all(a[-1] == b[0] for a, b in pairwise(rows))
    return np.concatenate([*(row[:-1] for row in rows), rows[-1][-1:]])


def test_every_token_in_is_a_token_out_in_every_epoch(tokens):
    layout = DocumentLayout(tokens, LENGTH, seed=5)
    orders, cut = [], set()
    for epoch in range(4):
        found = stream(layout, epoch)
        # The rest of the last row is all that is missing, and the documents stay whole.
        rest = layout._layout(epoch).documents[-1]
        counts = np.bincount(found, minlength=40)
        expected = np.diff(tokens.document_starts.astype(int))
        missing = expected - counts
        assert missing.sum() == tokens.num_tokens - len(found) < LENGTH
        assert (missing >= 0).all()
        changes = found[np.flatnonzero(np.diff(found, prepend=-1))]
        assert len(changes) == len(set(changes))
        orders.append(changes.tolist())
        cut.add(int(rest))
    assert len({tuple(order) for order in orders}) == 4
    assert len(cut) > 1


def test_the_layout_is_a_function_of_seed_and_epoch(tokens):
    first, second = (DocumentLayout(tokens, LENGTH, seed=5) for _ in range(2))
    n = first.num_sequences
    for index in (3 * n + 2, 1, 2 * n - 1, n):  # in any order, as a resumed run reads them
        assert np.array_equal(first.sequence(index, LENGTH), second.sequence(index, LENGTH))
    assert (stream(DocumentLayout(tokens, LENGTH, seed=6), 0) != stream(first, 0)).any()


def test_a_row_names_its_documents(tokens):
    layout = DocumentLayout(tokens, LENGTH, seed=5)
    for index in range(2 * layout.num_sequences):
        row = layout.sequence(index, LENGTH)
        named = layout.documents_in(index, LENGTH)
        assert set(row[:-1]) <= set(named)
        assert set(named) - set(row[:-1]) <= {int(row[-1])}
