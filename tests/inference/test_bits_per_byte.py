"""Bits per byte: each token scored once, the same for any batch size, golden values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from teenytinyllama.inference.bits_per_byte import EncodedDocument, cut_windows, score_documents

CONTEXT = 16


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
    )
    return LlamaForCausalLM(config).float()


def documents(count: int = 12) -> list[EncodedDocument]:
    rng = np.random.default_rng(0)
    lengths = [1, 2, 15, 16, 17, 18, 24, 25, 40, 63, 3, 5][:count]
    return [
        EncodedDocument(rng.integers(0, 50, n), 2 * n, "even" if n % 2 == 0 else "odd")
        for n in lengths
    ]


@pytest.mark.parametrize("length", range(1, 70))
def test_every_token_after_the_first_is_predicted_once(length):
    document = EncodedDocument(np.arange(length), length)
    predicted = []
    for window in cut_windows(document, CONTEXT):
        assert len(window.ids) - 1 <= CONTEXT
        predicted += window.ids[len(window.ids) - window.num_scored :].tolist()
    assert predicted == list(range(1, length))


def test_later_windows_see_at_least_half_a_context():
    windows = list(cut_windows(EncodedDocument(np.arange(200), 1), CONTEXT))
    for window in windows[1:]:
        assert len(window.ids) - 1 - window.num_scored >= CONTEXT // 2


def test_scores_equal_those_of_one_token_at_a_time(model):
    """The slow definition: each token from the context that its window gives it."""
    document = documents()[9]  # 63 tokens, several windows
    nats = 0.0
    with torch.inference_mode():
        for window in cut_windows(document, CONTEXT):
            for place in range(len(window.ids) - window.num_scored, len(window.ids)):
                before = torch.from_numpy(window.ids[:place])[None]
                logits = model(input_ids=before).logits[0, -1].double()
                nats -= float(logits.log_softmax(-1)[int(window.ids[place])])
    found = score_documents(model, [document], context_length=CONTEXT, batch_tokens=64)
    assert found.overall.nats == pytest.approx(nats, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 126, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / 62), rel=1e-5)


def test_scores_do_not_depend_on_the_batch_size(model):
    scores = [
        score_documents(model, documents(), context_length=CONTEXT, batch_tokens=tokens)
        for tokens in (1, 16, 50, 256, 10_000)
    ]
    for score in scores[1:]:
        assert score.bits_per_byte == pytest.approx(scores[0].bits_per_byte, rel=1e-6)
        assert score.by_source.keys() == scores[0].by_source.keys()


def test_sources_sum_to_the_overall_score(model):
    score = score_documents(model, documents(), context_length=CONTEXT, batch_tokens=64)
    assert score.by_source["even"].num_documents == 5
    assert score.by_source["odd"].num_documents == 7
    assert score.overall.num_bytes == sum(d.num_bytes for d in documents())
    assert score.overall.num_tokens == sum(len(d.ids) - 1 for d in documents())
    assert score.overall.nats == pytest.approx(sum(p.nats for p in score.by_source.values()))


def test_a_uniform_model_has_the_vocabulary_size_as_perplexity(model):
    with torch.no_grad():
        uniform = LlamaForCausalLM(model.config)
        uniform.lm_head.weight.zero_()
    found = score_documents(uniform, documents(), context_length=CONTEXT, batch_tokens=64)
    assert found.perplexity == pytest.approx(50, rel=1e-6)


def test_the_training_mode_is_restored(model):
    model.train()
    score_documents(model, documents(2), context_length=CONTEXT, batch_tokens=64)
    assert model.training
    model.eval()
