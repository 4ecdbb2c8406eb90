"""An auxiliary loss on the token after next: its value, its place in a checkpoint, its end."""

import pytest
import torch
from support.tiny_training import SIZES, VOCAB_SIZE, TinyTask, loop_of, settings, train
from torch.nn import functional

from teenytinyllama.errors import Interrupted
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.training import checkpoints
from teenytinyllama.training.losses import IGNORED, NextTokenLoss
from teenytinyllama.training.second_token import remove_second_token, without_second_token

NAME = "second_token.weight"


def auxiliary_task():
    return TinyTask(second_token_weight=0.3)


@pytest.fixture
def batch():
    ids, labels = (torch.from_numpy(a).clone() for a in TinyTask().batches(0, 4)[0].load().values())
    labels[:, 3] = IGNORED
    return ids, labels


def test_it_is_the_cross_entropy_of_the_token_after_next(batch):
    ids, labels = batch
    task = auxiliary_task()
    model = task.model
    torch.nn.init.normal_(model.second_token.weight, std=0.3)
    found = task.loss(ids, labels)
    hidden = model.model(input_ids=ids).last_hidden_state
    logits = model.lm_head(hidden + model.second_token(hidden))
    expected = NextTokenLoss(model)(ids, labels)
    for row in range(len(ids)):
        for place in range(ids.shape[1] - 1):
            target = labels[row, place + 1]
            if target != IGNORED and labels[row, place] != IGNORED:
                expected = expected + 0.3 * functional.cross_entropy(logits[row, place], target)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_without_a_weight_the_model_and_its_loss_are_plain(batch):
    config = llama_config(SIZES, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
    plain = build_model(config, seed=0)
    NextTokenLoss(plain)
    assert not hasattr(plain, "second_token")
    task = auxiliary_task()  # drawn from the same seed: its matrix took no random number
    assert all(torch.equal(task.model.state_dict()[n], w) for n, w in plain.state_dict().items())
    remove_second_token(task.model)
    remove_second_token(task.model)
    assert task.model.state_dict().keys() == plain.state_dict().keys()


PLAN = {"keep_best": True, "ema_decay": 0.8, "rows_per_epoch": 20}


def test_checkpoints_are_plain_models_and_a_stopped_run_ends_in_the_same_bytes(tmp_path):
    whole = train(tmp_path / "whole", task=auxiliary_task(), **PLAN)
    assert float(whole.task.model.second_token.weight.detach().abs().max()) > 0
    for num_steps in (7, 13):
        loop = loop_of(tmp_path / "cut", task=auxiliary_task(), plan=settings(**PLAN))
        after_step = loop._after_step

        def stop_there(loop=loop, after_step=after_step, num_steps=num_steps):
            if loop.state.step == num_steps:
                loop.stop_signal = "SIGTERM"
            after_step()

        loop._after_step = stop_there
        with pytest.raises(Interrupted):
            loop.run()
    cut = train(tmp_path / "cut", task=auxiliary_task(), **PLAN)
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [tmp_path / side / "step-0000020" / name for side in ("cut", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert torch.equal(cut.task.model.second_token.weight, whole.task.model.second_token.weight)
    found = checkpoints.load_newest(tmp_path / "cut")
    assert NAME not in found.model
    assert f"auxiliary/{NAME}" in found.optimizer
    moments = {name.partition("/")[0] for name in found.optimizer if name.endswith(f"/{NAME}")}
    assert moments == {"auxiliary", "momentum_buffer", "weights-ema"}
    assert not any(NAME in name for name in without_second_token(found.optimizer))


def test_a_training_without_it_starts_from_the_moments_of_one_with_it(tmp_path):
    train(tmp_path / "first", task=auxiliary_task())
    task = TinyTask()
    task.initial_optimizer = checkpoints.load_newest(tmp_path / "first").optimizer
    assert train(tmp_path / "second", task=task).state.step == 20
