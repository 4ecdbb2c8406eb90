"""What can go wrong under a training, and the sentence or the way out that a user gets."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import torch
from support.tiny_training import LENGTH, ROWS_PER_STEP, TinyTask, loop_of, loss_log, train
from torch import nn

from teenytinyllama import hardware
from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.training import checkpoints, loop
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


def test_out_of_memory_at_the_first_step_halves_the_micro_batch(tmp_path, capsys):
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


def test_what_never_fits_says_what_to_make_smaller(tmp_path):
    with pytest.raises(UserError) as caught:
        train(tmp_path, task=small_memory(0), micro_batch=2)
    assert caught.value.code == "out-of-memory"
    assert "micro_batch = 1 x 16 tokens" in caught.value.where
    assert "activation_checkpointing=true" in caught.value.fix


@pytest.mark.parametrize("world", [3, 8])
def test_processes_that_cannot_share_a_step_are_refused_with_the_number_of_rows(world):
    strategy = SimpleNamespace(world_size=world, device=torch.device("cpu"))
    with pytest.raises(UserError) as caught:
        first_micro_batch(TinyTask(), strategy)
    assert caught.value.code == "world-size"
    assert f"{world} processes" in caught.value.where
    assert "a divisor of 4" in caught.value.fix


def test_a_chip_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Chip")
    with pytest.raises(UserError, match=r"Old Chip has no bfloat16.*precision=\"fp32\"") as caught:
        hardware.check_precision("bf16-mixed", torch.device("cuda"))
    assert caught.value.code == "precision-unsupported"
    hardware.check_precision("fp32", torch.device("cuda"))


@pytest.mark.parametrize("name", ["tokens", "tokenizer", "model"])
def test_a_checkpoint_of_another_training_is_refused_with_both_values(tmp_path, name):
    identity = {"tokens": "a1", "tokenizer": "b2", "model": "c3"}
    train(tmp_path, task=TinyTask(identity=identity), num_steps=2)
    with pytest.raises(UserError) as caught:
        train(tmp_path, task=TinyTask(identity={**identity, name: "ff"}), num_steps=4)
    assert caught.value.code == "checkpoint-differs"
    assert f"({name}: {identity[name]} there, ff here)" in caught.value.what


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    train(tmp_path / "steady", num_steps=8)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            cls.days = getattr(cls, "days", 0) - 400
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=cls.days)

    monkeypatch.setattr(loop, "datetime", Jumping)
    monkeypatch.setattr("time.time", lambda: -1e9)
    train(tmp_path / "jumping", num_steps=8)
    assert weights_of(tmp_path / "jumping", 8) == weights_of(tmp_path / "steady", 8)
    assert loss_log(tmp_path / "jumping") == loss_log(tmp_path / "steady")


def test_a_damaged_checkpoint_is_named_with_the_one_taken_and_the_end_is_the_same(tmp_path, capsys):
    train(tmp_path / "whole")
    train(tmp_path / "hurt", num_steps=10)
    path = tmp_path / "hurt" / checkpoints.folder_name(10) / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    train(tmp_path / "hurt")
    said = capsys.readouterr().err
    assert "step 10 is damaged: optimizer.safetensors changed since it was written" in said
    assert "resuming from step-0000005" in said
    assert weights_of(tmp_path / "hurt", 20) == weights_of(tmp_path / "whole", 20)
    assert loss_log(tmp_path / "hurt") == loss_log(tmp_path / "whole")


def test_a_signal_a_moment_after_the_question_waits_for_the_next_step_and_its_save(tmp_path):
    the_loop = loop_of(tmp_path)
    agree = the_loop._agree

    def late():
        answer = agree()
        if the_loop.state.step == 3:
            the_loop.stop_signal = "SIGTERM"
        return answer

    the_loop._agree = late
    with pytest.raises(Interrupted, match="SIGTERM after step 4"):
        the_loop.run()
    assert [step for step, _ in checkpoints.list_checkpoints(tmp_path)] == [4]
