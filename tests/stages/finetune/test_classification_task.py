"""The loss of a classifier and its predictions, and which epoch is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.stages.finetune.classification_task import (
    LabelLoss,
    best_epoch,
    logits_of,
    predict,
)
from teenytinyllama.stages.finetune.classifier_models import own_model
from teenytinyllama.stages.finetune.labelled_dataset import Example
from teenytinyllama.stages.finetune.length_grouping import EncodedExample, pad


@pytest.fixture(scope="module")
def encoder(small_tokenizer_dir: Path) -> TextEncoder:
    return load_tokenizer(small_tokenizer_dir)


def test_padding_changes_no_logit_and_pooling_takes_eos(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder
) -> None:
    candidate = own_model(small_base_dir, small_tokenizer_dir, encoder, 100)
    model = candidate.make(["a", "b", "c"], 0).eval()
    texts = ["o gato", "a raposa mora na floresta", "sim"]
    rows = [candidate.encode(Example((text,), 0)) for text in texts]
    with torch.no_grad():
        together = logits_of(model, torch.from_numpy(pad(rows, 3)["input_ids"]), 3)
        for row, logits in zip(rows, together, strict=True):
            alone = torch.tensor([row.ids])
            hidden = model.model(alone).last_hidden_state[0, -1]
            torch.testing.assert_close(logits, model.score(hidden), atol=1e-5, rtol=0)
            # transformers itself, with its own mask, says the same.
            theirs = model(input_ids=alone, attention_mask=torch.ones_like(alone)).logits[0]
            torch.testing.assert_close(logits, theirs, atol=1e-5, rtol=0)
    found = predict(model, rows, 3)
    assert np.allclose(np.stack(found), together.numpy(), atol=1e-5)


def test_the_loss_is_the_sum_over_examples(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder
) -> None:
    candidate = own_model(small_base_dir, small_tokenizer_dir, encoder, 100)
    model = candidate.make(["a", "b"], 0).eval()
    loss = LabelLoss(model, 3)
    rows = [EncodedExample((1, 9, 2), 0, False), EncodedExample((1, 9, 9, 9, 2), 1, False)]
    both = {k: torch.from_numpy(v) for k, v in pad(rows, 3).items()}
    parts = [{k: torch.from_numpy(v) for k, v in pad([row], 3).items()} for row in rows]
    with torch.no_grad():
        whole = float(loss(**both))
        apart = sum(float(loss(**part)) for part in parts)
    assert whole == pytest.approx(apart, abs=1e-5)


@pytest.mark.parametrize("is_random", [False, True])
def test_next_token_loss_is_added_to_the_label_loss(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder, is_random: bool
) -> None:
    candidate = own_model(
        small_base_dir, small_tokenizer_dir, encoder, 100, is_random=is_random, keeps_head=True
    )
    model = candidate.make(["a", "b"], 0).eval()
    rows = [EncodedExample((1, 9, 2), 0, False), EncodedExample((1, 9, 8, 7, 2), 1, False)]
    both = {k: torch.from_numpy(v) for k, v in pad(rows, 3).items()}
    labels_alone = float(LabelLoss(model, 3, token_weight=0.0)(**both).detach())
    with_tokens = LabelLoss(model, 3, token_weight=0.5)(**both)
    # Next to what transformers says of each text alone: six tokens are predicted, no padding is.
    causal = LlamaForCausalLM(model.config).eval()
    causal.model, causal.lm_head = model.model, model.lm_head
    with torch.no_grad():
        found = [causal(input_ids=torch.tensor([row.ids])).logits[0] for row in rows]
        tokens = sum(
            float(functional.cross_entropy(f[:-1], torch.tensor(r.ids[1:]), reduction="sum"))
            for f, r in zip(found, rows, strict=True)
        )
    assert float(with_tokens.detach()) == pytest.approx(labels_alone + 0.5 * tokens, rel=1e-5)
    with_tokens.backward()
    assert model.lm_head.weight.grad.abs().sum() > 0
    if not is_random:
        base = AutoModelForCausalLM.from_pretrained(small_base_dir / "final")
        assert torch.equal(model.lm_head.weight, base.lm_head.weight)


def test_the_best_epoch_is_the_earliest_of_equals() -> None:
    assert best_epoch([0.44, 0.61, 0.58]) == 2
    assert best_epoch([0.8, 0.78, 0.8]) == 1
