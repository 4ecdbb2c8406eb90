"""Sizes of a Llama: parameters, FLOPs and memory by arithmetic; the configuration; the model.

The arithmetic needs no torch, so that planning answers in milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teenytinyllama.settings.training import ModelSettings

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

ROWS_TOGETHER = 64


def num_key_value_heads(model: ModelSettings) -> int:
    """Key-value heads, where 0 stands for as many as query heads."""
    return model.num_key_value_heads or model.num_attention_heads


def num_matrix_parameters(model: ModelSettings) -> int:
    """Parameters of the decoder layers' matrices: what Muon trains, what a token multiplies."""
    hidden = model.hidden_size
    head_size = hidden // model.num_attention_heads
    attention = 2 * hidden * hidden + 2 * hidden * head_size * num_key_value_heads(model)
    return model.num_hidden_layers * (attention + 3 * hidden * model.intermediate_size)


def num_parameters(model: ModelSettings, vocab_size: int) -> int:
    """All parameters. Llama has no biases; each layer has two gains, and one stands at the end.

    The paper's two models (Table 2):

    >>> num_parameters(ModelSettings(), 32_000)
    162417408
    >>> num_parameters(ModelSettings(hidden_size=1024, intermediate_size=4096,
    ...     num_hidden_layers=24, num_attention_heads=16), 32_000)
    468239360
    """
    gains = (2 * model.num_hidden_layers + 1) * model.hidden_size
    embeddings = (1 if model.tie_word_embeddings else 2) * vocab_size * model.hidden_size
    return num_matrix_parameters(model) + gains + embeddings


def flops_per_token(model: ModelSettings, vocab_size: int, sequence_length: int) -> int:
    """Training FLOPs of one token, forward and backward, as model FLOPs utilisation counts them.

    Six per matrix parameter (the head included, the embedding look-up not), and twelve per layer,
    width and position for attention (PaLM, appendix B; the causal half is not discounted).

    >>> flops_per_token(ModelSettings(), 32_000, 2048)
    1053425664
    """
    matrices = num_matrix_parameters(model) + vocab_size * model.hidden_size
    attention = 12 * model.num_hidden_layers * model.hidden_size * sequence_length
    return 6 * matrices + attention


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of embedding and head for so many pieces: the next multiple of 64, which the matrix
    units of GPUs work in. The rows beyond the vocabulary stand for nothing.

    >>> padded_vocab_size(32_000), padded_vocab_size(600)
    (32000, 640)
    """
    return -(-vocab_size // ROWS_TOGETHER) * ROWS_TOGETHER


def llama_config(
    model: ModelSettings, vocab_size: int, *, bos_id: int, eos_id: int, pad_id: int
) -> LlamaConfig:
    """The `transformers` configuration of these sizes."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=num_key_value_heads(model),
        max_position_embeddings=model.max_position_embeddings,
        tie_word_embeddings=model.tie_word_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        rms_norm_eps=model.rms_norm_eps,
        initializer_range=model.initializer_range,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        architectures=["LlamaForCausalLM"],
    )


def build_model(config: LlamaConfig, *, seed: int) -> LlamaForCausalLM:
    """A new model in fp32 whose weights depend on `seed` alone."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.float()
