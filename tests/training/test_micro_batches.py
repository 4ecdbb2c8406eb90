from types import SimpleNamespace

import pytest
import torch
from support.tiny_training import LENGTH, ROWS_PER_STEP, TinyTask, loss_log, train
from torch import nn

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import UserError
from teenytinyllama.training import checkpoints
from teenytinyllama.training.micro_batches import first_micro_batch


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
    assert "activation_checkpointing=true" in caught.value.fix


@pytest.mark.parametrize("world", [3, 8])
def test_processes_must_divide_the_rows_of_a_step(world):
    strategy = SimpleNamespace(world_size=world, device=torch.device("cpu"))
    with pytest.raises(UserError) as caught:
        first_micro_batch(TinyTask(), strategy)
    assert caught.value.code == "world-size"
    assert f"{world} processes" in caught.value.where
    assert "a divisor of 4" in caught.value.fix
