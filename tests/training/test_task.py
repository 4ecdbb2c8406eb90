"""How a step is cut into micro-batches."""

import numpy as np
import pytest
from support.tiny_training import LENGTH, ROWS_PER_STEP, TinyTask


@pytest.mark.parametrize("num_rows", [1, 2, 3, ROWS_PER_STEP])
def test_a_step_has_the_same_rows_however_it_is_cut(num_rows):
    task = TinyTask()
    (whole,) = task.batches(5, ROWS_PER_STEP)
    parts = task.batches(5, num_rows)
    assert len(parts) == -(-ROWS_PER_STEP // num_rows)
    assert sum(part.weight for part in parts) == whole.weight
    assert sum(part.num_tokens for part in parts) == whole.num_tokens
    for name, rows in whole.load().items():
        assert (np.concatenate([part.load()[name] for part in parts]) == rows).all()


def test_flops_of_a_run_and_the_record_of_a_step():
    task = TinyTask()
    assert task.flops(3) == 3 * ROWS_PER_STEP * LENGTH * task.flops_per_token
    assert task.describe_step(2) == {"rows": task.order.rows_of_step(2).tolist()}
    assert (task.evaluate(task.model), task.sample(task.model)) == ({}, [])
