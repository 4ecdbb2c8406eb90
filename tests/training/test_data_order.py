import time

import numpy as np
import pytest

from teenytinyllama.training.data_order import PhasedOrder, SequenceOrder, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_every_epoch_holds_every_sequence_once(size):
    for epoch in range(3):
        order = permute(np.arange(size, dtype=np.uint64), size, seed=5, epoch=epoch)
        assert sorted(order.tolist()) == list(range(size))


def test_epochs_and_seeds_differ():
    places = np.arange(1000, dtype=np.uint64)
    orders = [permute(places, 1000, s, e).tolist() for s, e in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_order_looks_random():
    # A shuffle leaves neighbours apart by a third of the size on average, and fixes one point.
    order = permute(np.arange(10_000, dtype=np.uint64), 10_000, 3, 0).astype(np.int64)
    assert abs(np.abs(np.diff(order)).mean() / 10_000 - 1 / 3) < 0.01
    assert (order == np.arange(10_000)).sum() <= 8


def test_steps_cross_epoch_edges_without_loss():
    order = SequenceOrder(num_sequences=10, rows_per_step=4, seed=0)
    stream = np.concatenate([order.rows_of_step(step) for step in range(5)])  # 20 rows, 2 epochs
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))


def test_rows_of_later_epochs_may_have_numbers_of_their_own():
    plain = SequenceOrder(num_sequences=10, rows_per_step=4, seed=0)
    through = SequenceOrder(num_sequences=10, rows_per_step=4, seed=0, numbers_through=True)
    rows = np.concatenate([through.rows_of_step(step) for step in range(5)])
    assert (rows // 10).tolist() == [0] * 10 + [1] * 10
    assert (rows % 10).tolist() == [r for s in range(5) for r in plain.rows_of_step(s).tolist()]


def test_step_one_million_of_ten_billion_tokens_is_found_at_once():
    order = SequenceOrder(num_sequences=10_000_000_000 // 2048, rows_per_step=64, seed=0)
    started = time.perf_counter()
    rows = order.rows_of_step(1_000_000)
    assert time.perf_counter() - started < 0.05
    assert len(set(rows.tolist())) == 64


def test_phases_follow_one_another_and_hold_every_row_once():
    order = PhasedOrder(starts=(0, 13, 20), num_steps=5, rows_per_step=4, seed=0)
    stream = np.concatenate([order.rows_of_step(step) for step in range(5)])
    assert sorted(stream[:13].tolist()) == list(range(13)) != stream[:13].tolist()
    assert sorted(stream[13:].tolist()) == list(range(13, 20))


def test_a_shorter_training_reads_the_same_share_of_every_phase():
    order = PhasedOrder(starts=(0, 120, 200), num_steps=10, rows_per_step=10, seed=0)
    stream = np.concatenate([order.rows_of_step(step) for step in range(10)])
    assert len(set(stream.tolist())) == 100
    assert (stream < 120).tolist() == [True] * 60 + [False] * 40
