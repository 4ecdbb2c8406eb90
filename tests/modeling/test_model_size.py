import pytest

from teenytinyllama.modeling import model_size as sizes
from teenytinyllama.modeling.initialization import llama_config
from teenytinyllama.modeling.loading import CAUSAL_MODELS
from teenytinyllama.settings.training import ModelSettings

PAPER_460M = ModelSettings(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
)
SHAPES = {
    "paper, 160m": (ModelSettings(), 32_000),
    "paper, 460m": (PAPER_460M, 32_000),
    "tied": (ModelSettings(tie_word_embeddings=True), 32_000),
    "grouped queries": (ModelSettings(num_key_value_heads=4), 32_000),
    "deep and thin": (
        ModelSettings(
            hidden_size=64, intermediate_size=192, num_hidden_layers=40, num_attention_heads=2
        ),
        1000,
    ),
    "2 B": (
        ModelSettings(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=26,
            num_attention_heads=16,
            num_key_value_heads=4,
        ),
        32_000,
    ),
}


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("name", SHAPES)
def test_arithmetic_counts_what_the_model_has(name, kind):
    import torch

    settings, vocab_size = SHAPES[name]
    settings = settings.model_copy(update={"kind": kind})
    config = llama_config(settings, vocab_size, bos_id=1, eos_id=2, pad_id=3)
    with torch.device("meta"):  # shapes without memory: 2 B parameters cost nothing
        model = CAUSAL_MODELS[kind](config)
    assert sum(p.numel() for p in model.parameters()) == sizes.num_parameters(settings, vocab_size)


def test_the_papers_sizes():
    assert sizes.num_parameters(ModelSettings(), 32_000) == 162_417_408
    assert sizes.num_parameters(PAPER_460M, 32_000) == 468_239_360
