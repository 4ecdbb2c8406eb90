from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    RobertaConfig,
)

from teenytinyllama.modeling.loading import load_base
from teenytinyllama.modeling.lora import CLASSIFIER_HEADS, add_lora
from teenytinyllama.settings.training import LoraSettings


def test_additions_start_at_zero_train_alone_and_merge(
    small_base_dir: Path, small_tokenizer_dir: Path
) -> None:
    model, _ = load_base(small_base_dir, small_tokenizer_dir)
    ids = torch.tensor([[1, 50, 60, 70, 2]])
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(ids).logits
    merge_lora = add_lora(model, LoraSettings(rank=2, alpha=4.0), seed=0)
    free = [name for name, p in model.named_parameters() if p.requires_grad]
    assert free
    assert all("lora_" in name for name in free)
    assert len(free) == 2 * 2 * 7  # A and B, two layers, seven matrices each
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, before)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
        changed = model(ids).logits
    assert not torch.allclose(changed, before, atol=1e-3)
    merge_lora()
    assert list(model.state_dict()) == names
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, changed, atol=1e-4, rtol=0)


SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
OTHERS = {
    # Six matrices a layer: query, key, value, output, and two of the feed-forward part.
    "bert": (BertConfig(intermediate_size=32, **SIZES), 2 * 6, {"classifier", "pooler"}),
    "roberta": (RobertaConfig(intermediate_size=32, **SIZES), 2 * 6, {"classifier"}),
    "distilbert": (
        DistilBertConfig(vocab_size=50, dim=16, hidden_dim=32, n_layers=2, n_heads=2),
        2 * 6,
        {"classifier", "pre_classifier"},
    ),
    # Query, key and value are one matrix.
    "gpt2": (GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2), 2 * 4, {"score"}),
}


@pytest.mark.parametrize("kind", list(OTHERS))
def test_other_classifiers_get_additions_and_a_trainable_head(kind: str) -> None:
    config, num_matrices, heads = OTHERS[kind]
    config.pad_token_id = 0
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    names = list(model.state_dict())
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    with torch.no_grad():
        before = model(ids).logits
    merge_lora = add_lora(
        model, LoraSettings(rank=2, alpha=4.0), seed=0, trainable=CLASSIFIER_HEADS
    )
    free = [name for name, p in model.named_parameters() if p.requires_grad]
    additions = [name for name in free if "lora_" in name]
    assert len(additions) == 2 * num_matrices
    assert {part for name in free for part in name.split(".")} & set(CLASSIFIER_HEADS) == heads
    assert not [name for name in additions if set(name.split(".")) & set(CLASSIFIER_HEADS)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
        changed = model(ids).logits
    merge_lora()
    assert list(model.state_dict()) == names
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, changed, atol=1e-4, rtol=0)
    assert not torch.allclose(changed, before, atol=1e-5)
