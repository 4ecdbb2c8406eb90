from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from teenytinyllama.training.cpu.packed_attention import isolate_texts


@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_loss_and_gradients_equal_those_of_a_mask(num_kv_heads: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 50, (2, 9))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 0], [0, 1, 0, 1, 2, 3, 4, 5, 6]])
    counted = positions.clone()
    counted[0, 7:] = -1  # padding

    def loss_and_gradients() -> list[torch.Tensor]:
        model.zero_grad()
        hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False)
        logits = model.lm_head(hidden.last_hidden_state)[counted >= 0]
        loss = logits.log_softmax(-1)[:, 7].sum()
        loss.backward()
        return [loss.detach(), *[p.grad.clone() for p in model.parameters()]]

    expected = loss_and_gradients()
    isolate_texts(model)
    assert model.config._attn_implementation == "ttl_isolated"
    for got, wanted in zip(loss_and_gradients(), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-5)
    # A saved model must load where this package is not installed.
    assert "ttl_isolated" not in model.config.to_json_string()
