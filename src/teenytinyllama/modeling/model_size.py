"""Parameters and FLOPs of a model by arithmetic, without torch: planning needs milliseconds."""

from __future__ import annotations

from typing import Any

from teenytinyllama.settings.training import ModelSettings

ROW_MULTIPLE = 64  # the matrix units of GPUs work in multiples of this


def num_key_value_heads(model: ModelSettings) -> int:
    """Number of key-value heads; a setting of 0 means as many as query heads."""
    return model.num_key_value_heads or model.num_attention_heads


def num_matrix_parameters(model: ModelSettings) -> int:
    """Parameters of the decoder layers' matrices: those that Muon trains."""
    hidden = model.hidden_size
    head_size = hidden // model.num_attention_heads
    attention = 2 * hidden * hidden + 2 * hidden * head_size * num_key_value_heads(model)
    return model.num_hidden_layers * (attention + 3 * hidden * model.intermediate_size)


def num_parameters(model: ModelSettings, vocab_size: int) -> int:
    """All parameters: no biases, two norm gains in each layer, one after the last layer.

    A `qwen3` has two more in each layer, of a head's size.

    The paper's two models (Table 2):

    >>> num_parameters(ModelSettings(), 32_000)
    162417408
    >>> num_parameters(ModelSettings(hidden_size=1024, intermediate_size=4096,
    ...     num_hidden_layers=24, num_attention_heads=16), 32_000)
    468239360
    """
    gains = (2 * model.num_hidden_layers + 1) * model.hidden_size
    if model.kind == "qwen3":
        gains += 2 * model.num_hidden_layers * (model.hidden_size // model.num_attention_heads)
    embeddings = (1 if model.tie_word_embeddings else 2) * vocab_size * model.hidden_size
    return num_matrix_parameters(model) + gains + embeddings


def flops_per_token(model: ModelSettings, vocab_size: int, sequence_length: int) -> int:
    """Training FLOPs of one token, forward and backward, as model FLOPs utilisation counts them.

    Six per matrix parameter (the head included, the embedding not), and twelve per layer, width and
    position for attention (PaLM, appendix B; causality is not discounted).

    >>> flops_per_token(ModelSettings(), 32_000, 2048)
    1053425664
    """
    matrices = num_matrix_parameters(model) + vocab_size * model.hidden_size
    attention = 12 * model.num_hidden_layers * model.hidden_size * sequence_length
    return 6 * matrices + attention


def second_token_flops(model: ModelSettings, vocab_size: int) -> int:
    """Training FLOPs that an auxiliary loss on the token after next adds for each token."""
    return 6 * model.hidden_size * (model.hidden_size + vocab_size)


def flops_per_token_of(model: Any, sequence_length: int) -> int:
    """`flops_per_token` of a loaded model of any architecture, from the sizes of its matrices."""
    matrices = sum(
        p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n
    )
    config = model.config
    attention = 12 * config.num_hidden_layers * config.hidden_size * sequence_length
    return int(6 * matrices + attention)


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of embedding and head for so many tokens: the next multiple of 64.

    >>> padded_vocab_size(32_000), padded_vocab_size(600)
    (32000, 640)
    """
    return -(-vocab_size // ROW_MULTIPLE) * ROW_MULTIPLE
