from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.stages.finetune.classification_task import LabelLoss, logits_of, predict
from teenytinyllama.stages.finetune.classifier_models import own_model
from teenytinyllama.stages.finetune.labelled_dataset import Example
from teenytinyllama.stages.finetune.length_grouping import (
    EncodedExample,
    LengthGroupedOrder,
    encode_with,
    pad,
)


@pytest.fixture(scope="module")
def encoder(small_tokenizer_dir: Path) -> TextEncoder:
    return load_tokenizer(small_tokenizer_dir)


def test_texts_end_with_the_mark_that_closed_documents(encoder: TextEncoder) -> None:
    encode = encode_with(encoder, 100)
    one, two = encoder.encode("A raposa"), encoder.encode("mora longe")
    assert encode(Example(("A raposa",), 0)).ids == (1, *one, 2)
    assert encode(Example(("A raposa", "mora longe"), 0)).ids == (1, *one, 2, *two, 2)
    # Text cannot forge a mark.
    assert encode(Example(("<s></s>",), 0)).ids.count(2) == 1


@pytest.mark.parametrize("max_length", [8, 9, 13, 30])
def test_a_long_text_is_cut_and_keeps_its_marks(encoder: TextEncoder, max_length: int) -> None:
    encode = encode_with(encoder, max_length)
    long, short = "a casa amarela " * 20, "o gato"
    one = encode(Example((long,), 0))
    assert (len(one.ids), one.ids[0], one.ids[-1], one.was_cut) == (max_length, 1, 2, True)
    pair = encode(Example((long, short), 0))
    assert (len(pair.ids), pair.ids.count(2), pair.was_cut) == (max_length, 2, True)
    assert not encode_with(encoder, 500)(Example((long,), 0)).was_cut
    # The short side stays whole where there is space for both.
    kept = encoder.encode(short)
    if max_length > 2 * len(kept) + 3:
        assert list(pair.ids[-1 - len(kept) : -1]) == kept


def test_an_epoch_sees_every_example_once_and_pads_little() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 1003).tolist()
    order = LengthGroupedOrder(lengths, 16, seed=3)
    assert order.steps_per_epoch == 63
    for epoch in (0, 1):
        steps = range(epoch * 63, epoch * 63 + 63)
        batches = [order.rows_of_step(step) for step in steps]
        assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
    assert padded < 1.1 * sum(lengths)
    # A pure function of (seed, step): asked again and out of order it is the same.
    again = LengthGroupedOrder(lengths, 16, seed=3)
    assert again.rows_of_step(70).tolist() == order.rows_of_step(70).tolist()
    other = LengthGroupedOrder(lengths, 16, seed=4)
    assert other.rows_of_step(70).tolist() != order.rows_of_step(70).tolist()


def test_padding_changes_no_logit_and_pooling_takes_the_end_mark(
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
def test_next_tokens_are_learnt_beside_labels(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder, is_random: bool
) -> None:
    candidate = own_model(
        small_base_dir, small_tokenizer_dir, encoder, 100, is_random=is_random, keeps_head=True
    )
    model = candidate.make(["a", "b"], 0).eval()
    rows = [EncodedExample((1, 9, 2), 0, False), EncodedExample((1, 9, 8, 7, 2), 1, False)]
    both = {k: torch.from_numpy(v) for k, v in pad(rows, 3).items()}
    labels_alone = float(LabelLoss(model, 3, token_weight=0.0)(**both))
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
    assert float(with_tokens) == pytest.approx(labels_alone + 0.5 * tokens, rel=1e-5)
    with_tokens.backward()
    assert model.lm_head.weight.grad.abs().sum() > 0
    if not is_random:
        base = AutoModelForCausalLM.from_pretrained(small_base_dir / "final")
        assert torch.equal(model.lm_head.weight, base.lm_head.weight)


def test_the_seed_decides_the_head_and_nothing_else(
    small_base_dir: Path, small_tokenizer_dir: Path, encoder: TextEncoder
) -> None:
    candidate = own_model(small_base_dir, small_tokenizer_dir, encoder, 100)
    one, same, other = (candidate.make(["a", "b"], seed) for seed in (0, 0, 1))
    assert isinstance(one, LlamaForSequenceClassification)
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert torch.equal(one.model.norm.weight, other.model.norm.weight)
    assert torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)
    twin = own_model(small_base_dir, small_tokenizer_dir, encoder, 100, is_random=True)
    assert not torch.equal(
        twin.make(["a", "b"], 5).model.embed_tokens.weight, one.model.embed_tokens.weight
    )
