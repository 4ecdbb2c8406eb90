from __future__ import annotations

import numpy as np

from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.stages.pack.document_order import fraction_of_rows_cut, order_documents


def test_best_fit_ends_rows_where_documents_end() -> None:
    lengths = np.array([5, 3, 6, 2, 4, 4, 7, 1])
    settings = PackSettings(order="best-fit", sequence_length=8)
    order = order_documents(lengths, ["a"] * 8, settings, is_train=True)
    assert sorted(order.tolist()) == list(range(8))
    assert fraction_of_rows_cut(lengths[order], 8) == 0  # 5+3, 6+2, 4+4, 7+1 in some order


def test_best_fit_cuts_fewer_rows_and_keeps_every_document() -> None:
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.lognormal(5, 1, 3000).astype(np.int64) + 3, 5000)
    cut = {}
    for kind in ("shuffled", "best-fit"):
        settings = PackSettings(order=kind, sequence_length=1024)
        order = order_documents(lengths, ["a"] * len(lengths), settings, is_train=True)
        assert sorted(order.tolist()) == list(range(3000))
        cut[kind] = fraction_of_rows_cut(lengths[order], 1024)
    assert cut["shuffled"] > 0.95
    assert cut["best-fit"] < 0.35
