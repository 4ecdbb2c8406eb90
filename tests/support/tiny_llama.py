"""A random Llama of two layers, and prompts of unequal length for it."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

PROMPTS = [[1, 5, 9, 20], [1, 7], [1, *range(30, 50)], [1, 200, 201]]


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    sizes = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,  # far from ties between the two most likely tokens
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()
