from __future__ import annotations

from pathlib import Path

import torch

from teenytinyllama.recipe import LoraSettings
from teenytinyllama.training.base_model import load_base
from teenytinyllama.training.lora import add_lora


def test_additions_start_at_nothing_train_alone_and_fold_away(
    small_base_dir: Path, small_tokenizer_dir: Path
) -> None:
    model, _ = load_base(small_base_dir, small_tokenizer_dir)
    ids = torch.tensor([[1, 50, 60, 70, 2]])
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(ids).logits
    fold = add_lora(model, LoraSettings(rank=2, alpha=4.0), seed=0)
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
    fold()
    assert list(model.state_dict()) == names
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, changed, atol=1e-4, rtol=0)
