import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.ranks import in_ranks
from support.tiny_training import (
    LENGTH,
    ROWS_PER_STEP,
    TinyTask,
    loop_of,
    loss_log,
    settings,
    train,
)
from torch import nn

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import UserError
from teenytinyllama.training import checkpoints, micro_batches
from teenytinyllama.training.micro_batches import Shortage, first_micro_batch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class SmallMemory(nn.Module):
    """A loss that runs out of memory above `max_rows`, from its call number `since` on."""

    def __init__(self, loss, max_rows, since=0):
        super().__init__()
        self.loss, self.model = loss, loss.model
        self.max_rows, self.calls_left = max_rows, since

    def forward(self, **tensors):
        self.calls_left -= 1
        if len(tensors["input_ids"]) > self.max_rows and self.calls_left < 0:
            raise torch.OutOfMemoryError("no memory")
        return self.loss(**tensors)


def small_memory(max_rows, since=0):
    task = TinyTask()
    task.loss = SmallMemory(task.loss, max_rows, since)
    return task


def weights_of(folder, step):
    return sha256_file(folder / checkpoints.folder_name(step) / "model.safetensors")


def test_out_of_memory_halves_the_micro_batch(tmp_path, capsys):
    train(tmp_path / "one", micro_batch=1, num_steps=6)
    loop = train(tmp_path / "halved", task=small_memory(1), micro_batch=4, num_steps=6)
    said = capsys.readouterr().err
    assert "out of memory at micro_batch 4, retrying with 2" in said
    assert "out of memory at micro_batch 2, retrying with 1" in said
    assert loop.state.micro_batch == 1
    assert weights_of(tmp_path / "halved", 6) == weights_of(tmp_path / "one", 6)


def test_out_of_memory_later_changes_neither_order_nor_tokens(tmp_path):
    train(tmp_path / "whole", micro_batch=4, num_steps=8)
    late = train(tmp_path / "late", task=small_memory(2, since=5), micro_batch=4, num_steps=8)
    assert late.state.tokens == 8 * ROWS_PER_STEP * LENGTH
    assert late.state.micro_batch == 2
    losses = [[row[1] for row in loss_log(tmp_path / name)] for name in ("whole", "late")]
    # Sums in another order: single precision keeps seven digits.
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)


def test_rows_that_never_fit_are_an_error(tmp_path):
    with pytest.raises(UserError) as caught:
        train(tmp_path, task=small_memory(0), micro_batch=2)
    assert caught.value.code == "out-of-memory"
    assert "micro_batch = 1 x 16 tokens" in caught.value.where
    assert "sequence_length" in caught.value.fix  # activations are recomputed by then


def test_one_row_that_does_not_fit_is_recomputed(tmp_path, capsys):
    """Without activation checkpointing a card of 6 GB would stop here."""
    task = small_memory(0, since=0)
    small = task.loss
    forward = small.forward

    def fits_recomputed(**tensors):
        small.max_rows = 1 if task.model.is_gradient_checkpointing else 0
        return forward(**tensors)

    small.forward = fits_recomputed
    loop = train(tmp_path, task=task, micro_batch=2, num_steps=3)
    assert "activations are recomputed from now on" in capsys.readouterr().err
    assert (loop.state.step, loop.state.micro_batch) == (3, 1)


def test_a_micro_batch_recovers_after_a_passing_shortage(tmp_path):
    task = small_memory(2)
    loop = loop_of(tmp_path, task=task, plan=settings(micro_batch=4, num_steps=6))
    loop._shortage.wait = 3
    seen, after_step = [], loop._after_step

    def watch():
        seen.append(loop.state.micro_batch)
        if loop.state.step == 2:
            task.loss.max_rows = 4  # another program has ended
        after_step()

    loop._after_step = watch
    loop.run()
    assert seen == [2, 2, 2, 4, 4, 4]


def test_a_micro_batch_that_never_fits_is_tried_ever_more_rarely():
    shortage = Shortage(wait=10)
    shortage.halved(8, step=0)
    assert (shortage.rows_now(4, step=9), shortage.rows_now(4, step=10)) == (4, 8)
    shortage.halved(8, step=10)
    assert (shortage.rows_now(4, step=29), shortage.rows_now(4, step=30)) == (4, 8)


@pytest.mark.parametrize("world", [3, 8])
def test_processes_must_divide_the_rows_of_a_step(world):
    strategy = SimpleNamespace(world_size=world, device=torch.device("cpu"))
    with pytest.raises(UserError) as caught:
        first_micro_batch(TinyTask(), strategy, settings(micro_batch=4))
    assert caught.value.code == "world-size"
    assert f"{world} processes" in caught.value.where
    assert "a divisor of 4" in caught.value.fix


class ReadRows(TinyTask):
    """Remembers the rows that it has read, and not those that count nothing."""

    def __init__(self):
        super().__init__()
        self.read = []

    def micro_batch(self, step, rows):
        batch = super().micro_batch(step, rows)

        def load():
            self.read.extend(rows.tolist())
            return batch.load()

        return replace(batch, load=load)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_with_unequal_memory_read_every_row_of_a_step_once(world, tmp_path):
    def work(rank):
        micro_batches.MAX_TOKENS_CPU = (rank + 1) * LENGTH
        task = ReadRows()
        loop_of(tmp_path, task=task, plan=settings(micro_batch=0, num_steps=1)).run()
        return task.read

    read = sorted(row for rows in in_ranks(world, work) for row in rows)
    assert read == sorted(TinyTask().order.rows_of_step(0))


def test_a_step_with_fewer_rows_than_processes_is_the_step_of_one(tmp_path):
    """The end of an epoch: a process without rows must not let the others wait."""

    def work(rank):
        task = TinyTask()
        task.order = SimpleNamespace(
            rows_per_step=ROWS_PER_STEP, rows_of_step=lambda step: np.arange(3 - 2 * step)
        )
        folder = tmp_path / os.environ["WORLD_SIZE"]
        loop = loop_of(folder, task=task, plan=settings(num_steps=2, log_every_steps=1))
        loop.run()
        return loop.state.tokens

    tokens = in_ranks(1, work), in_ranks(2, work), in_ranks(4, work)
    assert {one for found in tokens for one in found} == {(3 + 1) * LENGTH}
    alone, *several = (loss_log(tmp_path / name) for name in "124")
    for log in several:
        # Sums in another order: single precision keeps seven digits.
        assert [row[1] for row in log] == pytest.approx([row[1] for row in alone], rel=2e-6)
