"""Load the base model that a later room trains on, and save what it became in the same form."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from teenytinyllama.errors import UserError
from teenytinyllama.formats.encoding import MODEL_NAME, TextEncoder, load_tokenizer
from teenytinyllama.formats.manifest import sha256_file

TOKENIZER_NAMES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def load_base(pretrain_dir: Path, tokenizer_dir: Path) -> tuple[LlamaForCausalLM, TextEncoder]:
    """The base model in fp32 and the encoder of its tokenizer.

    Raises UserError where model and tokenizer are not of the same run.
    """
    encoder = load_tokenizer(tokenizer_dir)
    final_dir = pretrain_dir / "final"
    check_tokenizer(final_dir, encoder, tokenizer_dir)
    transformers_logging.disable_progress_bar()
    try:
        model: Any = LlamaForCausalLM.from_pretrained(
            final_dir, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        what = f"cannot be loaded ({(str(error).splitlines() or ['?'])[0][:160]})"
        raise UserError("model-damaged", str(final_dir), what, "ttl pretrain RECIPE") from error
    if model.config.vocab_size < encoder.vocab_size:
        raise UserError(
            "tokenizer-other-model",
            str(final_dir),
            f"the model knows {model.config.vocab_size} pieces, the tokenizer {encoder.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    return model, encoder


def check_tokenizer(final_dir: Path, encoder: TextEncoder, tokenizer_dir: Path) -> None:
    """Raises UserError where the tokenizer beside the weights is another one."""
    own = final_dir / MODEL_NAME
    if own.is_file() and sha256_file(own) != encoder.fingerprint:
        raise UserError(
            "tokenizer-other-model",
            str(tokenizer_dir),
            f"is not the tokenizer that {final_dir} was trained with",
            "run `ttl pretrain RECIPE`, or use that model's tokenizer",
        )


def copy_tokenizer(tokenizer_dir: Path, folder: Path) -> None:
    """Put a tokenizer's files beside a model, so that the folder stands alone."""
    for name in TOKENIZER_NAMES:
        if (tokenizer_dir / name).is_file():
            shutil.copyfile(tokenizer_dir / name, folder / name)


def save_final(model: Any, final_dir: Path, tokenizer_dir: Path) -> None:
    """`final/`: what `transformers` loads, weights as trained; there whole or not at all."""
    shutil.rmtree(final_dir, ignore_errors=True)
    partial = final_dir.with_name(f".partial-{final_dir.name}")
    shutil.rmtree(partial, ignore_errors=True)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(partial)
    copy_tokenizer(tokenizer_dir, partial)
    partial.rename(final_dir)


def flops_per_token(model: Any, sequence_length: int) -> int:
    """Training FLOPs of one token by the weights that multiply it (see `model.flops_per_token`)."""
    matrices = sum(
        p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n
    )
    config = model.config
    attention = 12 * config.num_hidden_layers * config.hidden_size * sequence_length
    return int(6 * matrices + attention)
