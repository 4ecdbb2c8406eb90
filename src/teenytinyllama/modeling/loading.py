"""Load the base model that a later stage trains on, and save what it became in the same form."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer, tokenizer_file
from teenytinyllama.errors import UserError

TOKENIZER_NAMES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def load_base(pretrain_dir: Path, tokenizer_dir: Path) -> tuple[LlamaForCausalLM, TextEncoder]:
    """The base model in fp32 and the encoder of its tokenizer.

    Raises UserError where a weight is missing, unknown or of another shape, and where model and
    tokenizer are not of the same run.
    """
    encoder = load_tokenizer(tokenizer_dir)
    final_dir = pretrain_dir / "final"
    check_tokenizer(final_dir, encoder, tokenizer_dir)
    model = load_whole(LlamaForCausalLM, final_dir, local_files_only=True)
    if model.config.vocab_size < encoder.vocab_size:
        raise UserError(
            "tokenizer-other-model",
            str(final_dir),
            f"the model knows {model.config.vocab_size} pieces, the tokenizer {encoder.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    return model, encoder


# What a folder that is damaged, or not what it says, makes transformers raise. Pickled weights that
# hold anything but tensors are one of these: torch does not run what is in them.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError)


def load_whole(
    kind: Any,
    place: Path | str,
    *,
    may_be_new: Callable[[str], bool] = lambda _: False,
    may_be_unused: Callable[[str], bool] = lambda _: False,
    fix: str = "ttl pretrain RECIPE",
    **options: Any,
) -> Any:
    """A `transformers` model in fp32 (or `dtype`), every weight of it read from its files.

    `transformers` fills a weight that the files lack with random numbers, leaves out one that
    the model does not know, and only warns. Here both are errors (UserError), but for names that
    `may_be_new` (a classifier's head) or `may_be_unused` (the head it replaces).
    """
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report on weights becomes our one line
    transformers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            place,
            **{"dtype": torch.float32, **options},
            ignore_mismatched_sizes=True,  # said below, with the name
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        what = f"cannot be loaded ({(str(error).splitlines() or ['?'])[0][:160]})"
        raise UserError("model-damaged", str(place), what, fix) from error
    finally:
        transformers_logging.set_verbosity(before)
    for key, fault, is_fine in (
        ("missing_keys", "are not in its files", may_be_new),
        ("mismatched_keys", "have other shapes than config.json asks for", may_be_new),
        ("unexpected_keys", "are in its files and not in the model", may_be_unused),
    ):
        # A mismatch is reported as (name, shape in the file, shape in the model).
        names = [name if isinstance(name, str) else str(name[0]) for name in info[key]]
        if found := sorted(name for name in names if not is_fine(name)):
            what = f"{len(found)} of its weights {fault}: {', '.join(found[:3])}"
            raise UserError("model-damaged", str(place), what, fix)
    return model


def check_tokenizer(final_dir: Path, encoder: TextEncoder, tokenizer_dir: Path) -> None:
    """Raises UserError where the tokenizer beside the weights is another one."""
    own = tokenizer_file(final_dir)
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
