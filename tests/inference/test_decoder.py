"""The decoder's forward pass equals that of transformers."""

from __future__ import annotations

import pytest
import torch
from support.tiny_llama import PROMPTS, tiny_llama
from transformers import LlamaForCausalLM

from teenytinyllama.errors import UserError
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.generation import generate


def by_transformers(model: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "tie_word_embeddings": True},
        {"head_dim": 32},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"kind": "qwen3"},
    ],
    ids=["grouped", "multi-head", "tied", "wide-heads", "scaled-positions", "qk-norm"],
)
def test_greedy_text_equals_transformers_for_unequal_prompts(changes: dict) -> None:
    model = tiny_llama(**changes)
    expected = [by_transformers(model, prompt, 24) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=24) == expected


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_bfloat16_logits_stay_near_those_of_transformers(kind: str) -> None:
    half = tiny_llama(kind).to(torch.bfloat16)
    decoder = Decoder(half)
    cache = decoder.new_cache()
    logits = decoder.prefill(cache, [PROMPTS[2]])
    for token in (40, 41):  # a step of one row uses other kernels than prefill
        logits = decoder.decode_step(cache, [token])
    with torch.no_grad():
        expected = half(torch.tensor([[*PROMPTS[2], 40, 41]])).logits[0, -1].float()
    # bfloat16 keeps 8 bits: logits of size 10 are known to about 0.06.
    assert (logits[0] - expected).abs().max() < 0.15


def test_an_embedding_is_the_mean_of_the_last_hidden_states() -> None:
    model = tiny_llama()
    with torch.no_grad():
        out = model(torch.tensor([PROMPTS[1]]), output_hidden_states=True)
    expected = torch.nn.functional.normalize(out.hidden_states[-1][0].mean(0), dim=0)
    assert torch.allclose(Decoder(model).embed(PROMPTS[1]), expected, atol=1e-5)


def test_another_architecture_is_named_in_the_error() -> None:
    model = tiny_llama()
    model.config.model_type = "mistral"
    with pytest.raises(UserError, match="mistral"):
        Decoder(model)
