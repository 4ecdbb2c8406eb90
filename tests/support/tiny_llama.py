"""A random Llama of two layers, and prompts of unequal length for it."""

from __future__ import annotations

import torch

from teenytinyllama.modeling.loading import CAUSAL_MODELS, CausalModel

PROMPTS = [[1, 5, 9, 20], [1, 7], [1, *range(30, 50)], [1, 200, 201]]


def tiny_llama(kind: str = "llama", **changes: object) -> CausalModel:
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
    if kind == "qwen3":
        changes = {"head_dim": 16, **changes}
    model = CAUSAL_MODELS[kind]
    made = model(model.config_class(**{**sizes, **changes}))
    for name, gain in made.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(gain, 0.5, 2)  # each number of a head its own
    return made.eval()
