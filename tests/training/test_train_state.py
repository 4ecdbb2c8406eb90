import json

import pytest
import torch
from support.tiny_training import TinyTask, train

from teenytinyllama.energy import Energy
from teenytinyllama.errors import UserError
from teenytinyllama.training.train_state import TrainState


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


def test_scores_of_every_evaluation_survive_a_resume(tmp_path):
    task = TinyTask()
    task.evaluate = lambda model: {"heldout_loss": 1.0}
    train(tmp_path, task=task, num_steps=10, evaluate_every_steps=5)
    loop = train(tmp_path, task=task, num_steps=20, evaluate_every_steps=5)
    assert loop.state.evaluations == [
        {"step": step, "heldout_loss": 1.0} for step in (5, 10, 15, 20)
    ]


def test_json_of_a_state_is_read_back():
    state = TrainState(step=3, tokens=12, energy=Energy(1.0, 2.0, 3.0, 4.0), seconds=0.5)
    assert TrainState.from_json(json.loads(json.dumps(state.to_json()))) == state
