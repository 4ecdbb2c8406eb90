"""Load models with every weight checked; save a trained model beside its tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from teenytinyllama.artifacts.manifest import sha256_file, sync_folder, sync_tree
from teenytinyllama.artifacts.model_folder import check_sizes
from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer, tokenizer_file
from teenytinyllama.errors import TtlError, UserError

CausalModel: TypeAlias = LlamaForCausalLM | Qwen3ForCausalLM
"""What this package trains: Qwen3 is a Llama with QK-norm."""
CAUSAL_MODELS: dict[str, type[CausalModel]] = {
    "llama": LlamaForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}
TOKENIZER_NAMES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def load_base(pretrain_dir: Path, tokenizer_dir: Path) -> tuple[CausalModel, TextEncoder]:
    """The base model in fp32 and the encoder of its tokenizer.

    Raises UserError where a weight is missing, unknown or of another shape, and where the model was
    trained with another tokenizer.
    """
    encoder = load_tokenizer(tokenizer_dir)
    final_dir = pretrain_dir / "final"
    check_tokenizer(final_dir, encoder, tokenizer_dir)
    model: CausalModel = load_whole(AutoModelForCausalLM, final_dir, local_files_only=True)
    if model.config.vocab_size < encoder.vocab_size:
        raise UserError(
            "tokenizer-other-model",
            str(final_dir),
            f"the model has {model.config.vocab_size} tokens, the tokenizer {encoder.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    return model, encoder


@contextmanager
def loading(place: Path | str, fix: str) -> Iterator[None]:
    """Inside, a library reads a folder that may be damaged or made by a stranger.

    Whatever it raises (dividing by a size of zero, asserting, asking for another library, refusing
    pickled weights) becomes a UserError: these libraries share no base class of errors.
    """
    try:
        yield
    except TtlError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or ["?"]
        said = lines[-1].strip() if lines[0].endswith(":") else lines[0]
        # Some say no more than a number or a name.
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        what = f"cannot be loaded ({kind}{said[:160]})"
        raise UserError("model-damaged", str(place), what, fix) from error


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

    `transformers` only warns where it fills a missing weight with random numbers or ignores an
    unknown one. Here both raise UserError, except for names that `may_be_new` (a classifier's head)
    or `may_be_unused` (the head it replaces).
    """
    if Path(place).is_dir():
        check_sizes(Path(place))
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # we report its findings in one line
    transformers_logging.disable_progress_bar()
    try:
        with loading(place, fix):
            model, info = kind.from_pretrained(
                place,
                **{"dtype": torch.float32, **options},
                ignore_mismatched_sizes=True,  # reported below, with the name
                output_loading_info=True,
            )
    finally:
        transformers_logging.set_verbosity(before)
    for key, problem, is_expected in (
        ("missing_keys", "are not in its files", may_be_new),
        ("mismatched_keys", "have other shapes than config.json asks for", may_be_new),
        ("unexpected_keys", "are in its files and not in the model", may_be_unused),
    ):
        # A mismatch is reported as (name, shape in the file, shape in the model).
        names = [name if isinstance(name, str) else str(name[0]) for name in info[key]]
        if found := sorted(name for name in names if not is_expected(name)):
            what = f"{len(found)} of its weights {problem}: {', '.join(found[:3])}"
            raise UserError("model-damaged", str(place), what, fix)
    return copy_weights(model)


def copy_weights(model: Any) -> Any:
    """The model with its weights in memory of their own, one after another.

    `transformers` maps the file into memory, and a process that reads a mapped file after
    somebody cut it is killed (SIGBUS).
    """
    with torch.no_grad():
        for tensor in chain(model.parameters(), model.buffers()):
            if tensor.device.type == "cpu":
                tensor.data = tensor.data.clone()
    return model


def check_tokenizer(final_dir: Path, encoder: TextEncoder, tokenizer_dir: Path) -> None:
    """Raise UserError where the tokenizer saved with the weights is another one."""
    own = tokenizer_file(final_dir)
    if own.is_file() and sha256_file(own) != encoder.fingerprint:
        raise UserError(
            "tokenizer-other-model",
            str(tokenizer_dir),
            f"is not the tokenizer that {final_dir} was trained with",
            "run `ttl pretrain RECIPE`, or use that model's tokenizer",
        )


def copy_tokenizer(tokenizer_dir: Path, folder: Path) -> None:
    """Copy a tokenizer's files into a model's folder, so that the folder is complete."""
    for name in TOKENIZER_NAMES:
        if (tokenizer_dir / name).is_file():
            shutil.copyfile(tokenizer_dir / name, folder / name)


def save_final(model: Any, final_dir: Path, tokenizer_dir: Path) -> None:
    """Write `final/`, which `transformers` loads, atomically: complete or absent.

    Synced like a checkpoint: the manifest that names its hashes must not outlive its bytes.
    """
    shutil.rmtree(final_dir, ignore_errors=True)
    partial = final_dir.with_name(f".partial-{final_dir.name}")
    shutil.rmtree(partial, ignore_errors=True)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(partial)
    copy_tokenizer(tokenizer_dir, partial)
    sync_tree(partial)
    partial.rename(final_dir)
    sync_folder(final_dir.parent)
