"""An ensemble's probabilities, and a loss against them, computed by hand."""

import pytest
import torch
from support.tiny_training import TinyTask

from teenytinyllama.training.distillation import DistillationLoss, Ensemble
from teenytinyllama.training.losses import IGNORED


@pytest.fixture
def batch():
    arrays = TinyTask().batches(0, 4)[0].load()
    ids, labels = (torch.from_numpy(rows).clone() for rows in arrays.values())
    labels[:, 0] = IGNORED
    return ids, labels


@pytest.fixture
def teacher():
    return Ensemble([TinyTask(seed=seed).model for seed in (1, 2, 3)])


def test_an_ensemble_answers_with_the_mean_probability(teacher, batch):
    ids, _ = batch
    with torch.no_grad():
        members = [torch.softmax(m(input_ids=ids).logits, -1) for m in teacher.members]
        found = teacher(input_ids=ids, use_cache=False).logits.exp()
    torch.testing.assert_close(found, torch.stack(members).mean(0))
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_loss_is_the_cross_entropy_of_text_and_teacher(teacher, batch, weight):
    ids, labels = batch
    student = TinyTask(seed=9).model
    loss = DistillationLoss(student, teacher, teacher_weight=weight)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in student.parameters()}
    found = loss(ids, labels)
    with torch.no_grad():
        expected_p = teacher(ids).logits.exp()[:, 1:]
    logits = student(input_ids=ids).logits[:, 1:]
    of_text = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    of_teacher = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), expected_p.flatten(0, 1), reduction="sum"
    )
    by_hand = (1 - weight) * of_text + weight * of_teacher
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-4)
    ours, theirs = (torch.autograd.grad(one, student.lm_head.weight)[0] for one in (found, by_hand))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
