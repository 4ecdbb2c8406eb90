import pytest
import torch
from support.tiny_training import TinyTask, train

from teenytinyllama.errors import UserError


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["tokens", "tokenizer", "model"])
def test_a_checkpoint_of_a_different_run_is_refused(tmp_path, name):
    identity = {"tokens": "a1", "tokenizer": "b2", "model": "c3"}
    train(tmp_path, task=TinyTask(identity=identity), num_steps=2)
    with pytest.raises(UserError) as caught:
        train(tmp_path, task=TinyTask(identity={**identity, name: "ff"}), num_steps=4)
    assert caught.value.code == "checkpoint-differs"
    assert f"({name}: {identity[name]} there, ff here)" in caught.value.what


def test_other_numerics_than_before_are_reported(tmp_path, capsys):
    train(tmp_path, num_steps=5)
    train(tmp_path, num_steps=10)
    assert "last bits" not in capsys.readouterr().err
    torch.set_num_threads(2)
    train(tmp_path, num_steps=15)
    said = capsys.readouterr().err
    assert "resuming from step-0000010" in said
    assert "differ from an uninterrupted run's (threads: 1 before, 2 now)" in said
