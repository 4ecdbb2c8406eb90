"""Where a training starts: fresh weights, or another Llama's (paper section 2 and footnote 3).

A model with another tokenizer keeps its layers and gets a new embedding: a piece that both
vocabularies have keeps its vector, a new piece starts as the mean of the old pieces that spell
it. The paper swapped embeddings without this and saw the loss jump for a quarter of the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from teenytinyllama.artifacts.model_folder import check_model_folder
from teenytinyllama.artifacts.subword_tokenizer import bytes_of_piece
from teenytinyllama.errors import UserError
from teenytinyllama.modeling import model_size as sizes
from teenytinyllama.settings.training import ModelSettings


class Start(NamedTuple):
    """A model to train, its sizes, and the moments to begin with where there are any."""

    model: Any
    settings: ModelSettings
    optimizer: dict[str, Tensor] | None
    num_shared_pieces: int | None
    """Pieces that kept their vector; None where the tokenizer is the same or the model is new."""


def fresh(
    settings: ModelSettings, vocab_size: int, special_ids: dict[str, int], seed: int
) -> Start:
    """New weights that depend on `seed` alone."""
    config = sizes.llama_config(settings, vocab_size, **special_ids)
    return Start(sizes.build_model(config, seed=seed), settings, None, None)


def from_folder(
    place: str, settings: ModelSettings, tokenizer_dir: Path, special_ids: dict[str, int]
) -> Start:
    """The Llama at `place`: a folder, one of our checkpoints, or a Hub id.

    Raises UserError where it is no Llama, or where the recipe asks for other sizes.
    """
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    from teenytinyllama.modeling.loading import load_whole

    where = f'pretrain.start_from = "{place}"'
    if not Path(place).is_dir() and place.startswith((".", "/", "runs")):
        raise UserError("start-missing", where, "no such folder", "give a folder with config.json")
    if Path(place).is_dir():
        check_model_folder(Path(place))
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError("start-missing", where, reason, "give a folder with config.json") from error
    if config.model_type != "llama":
        what = f'model_type is "{config.model_type}", only "llama" can be trained'
        raise UserError("start-not-llama", where, what, "start from a Llama")
    found = settings_of(config)
    if settings not in (ModelSettings(), found):
        raise UserError(
            "start-other-sizes",
            where,
            f"its sizes ({_sizes(found)}) are not those of [pretrain.model] ({_sizes(settings)})",
            "leave out [pretrain.model]: the sizes come from the model",
        )
    model = load_whole(LlamaForCausalLM, place, fix="start from a model with all its weights")
    new_tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    old_tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    for name, value in special_ids.items():
        setattr(model.config, name.replace("_id", "_token_id"), value)
    if old_tokenizer.get_vocab() == new_tokenizer.get_vocab():
        moments = Path(place) / "optimizer.safetensors"
        return Start(model, found, load_file(moments) if moments.is_file() else None, None)
    return Start(model, found, None, transplant(model, old_tokenizer, new_tokenizer))


def settings_of(config: Any) -> ModelSettings:
    """The sizes in a Hugging Face configuration, as our settings."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    rope = getattr(config, "rope_parameters", None) or {}
    return ModelSettings(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=0 if kv_heads == heads else kv_heads,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        rope_theta=float(rope.get("rope_theta", 10_000.0)),
        rms_norm_eps=config.rms_norm_eps,
        initializer_range=config.initializer_range,
    )


def _sizes(model: ModelSettings) -> str:
    return f"{model.num_hidden_layers} layers x {model.hidden_size}"


def transplant(model: Any, old_tokenizer: Any, new_tokenizer: Any) -> int:
    """Give `model` the vocabulary of `new_tokenizer`; returns how many pieces kept their vector.

    Works on embedding and head alike. Special tokens go to their namesakes by role.
    """
    origins, num_shared = _origins(old_tokenizer, new_tokenizer)
    old = [model.get_input_embeddings().weight.detach().clone()]
    tied = model.config.tie_word_embeddings
    if not tied:
        old.append(model.get_output_embeddings().weight.detach().clone())
    model.resize_token_embeddings(len(origins), mean_resizing=False)
    new = [model.get_input_embeddings().weight]
    if not tied:
        new.append(model.get_output_embeddings().weight)
    with torch.no_grad():
        for source, target in zip(old, new, strict=True):
            mean = source.mean(dim=0)
            for row, ids in enumerate(origins):
                target[row] = source[ids].mean(dim=0) if ids else mean
    return num_shared


def _origins(old_tokenizer: Any, new_tokenizer: Any) -> tuple[list[list[int]], int]:
    """For each new id the old ids that its vector is the mean of."""
    old_vocabulary = old_tokenizer.get_vocab()
    roles = ("unk_token", "bos_token", "eos_token", "pad_token")
    by_role = {getattr(new_tokenizer, r): getattr(old_tokenizer, r) for r in roles}
    text_of, old_text_of = _reader(new_tokenizer), _reader(old_tokenizer)
    is_written_alike = text_of("\u0120") == old_text_of("\u0120")
    special = set(new_tokenizer.all_special_tokens)
    old_ids = {old_text_of(piece): index for piece, index in old_vocabulary.items()}
    origins: list[list[int]] = []
    num_shared = 0
    for piece in new_tokenizer.convert_ids_to_tokens(list(range(len(new_tokenizer)))):
        name, text = by_role.get(piece) or piece, text_of(piece)
        if name in old_vocabulary and (is_written_alike or piece in special):
            origins.append([old_vocabulary[name]])
        elif text is not None and text in old_ids:
            origins.append([old_ids[text]])
        else:
            origins.append(_spelling(text, old_tokenizer) if text else [])
            continue
        num_shared += 1
    return origins, num_shared


def _reader(tokenizer: Any) -> Callable[[str], str | None]:
    """The text of a piece of this tokenizer; None for a special token and for part of a letter."""
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    special = set(tokenizer.all_special_tokens)
    if "ByteLevel" not in json.dumps(decoder):
        return lambda p: None if p.startswith("<") and p.endswith(">") else p.replace("▁", " ")

    def read(piece: str) -> str | None:
        try:
            return None if piece in special else bytes_of_piece(piece).decode("utf-8")
        except (KeyError, UnicodeDecodeError):  # a token that was added as text; half a letter
            return None

    return read


def _spelling(text: str, tokenizer: Any) -> list[int]:
    """Ids of the pieces that spell `text` in a tokenizer of another kind."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    # SentencePiece puts a space before every text, byte-level BPE does not.
    adds_space = tokenizer.convert_ids_to_tokens(encode("a")[0]).startswith("▁")
    if not adds_space:
        return encode(text)
    if text.startswith(" "):
        return encode(text[1:])
    ids = encode(text)
    return ids[1:] if tokenizer.convert_ids_to_tokens(ids[0]) == "▁" else ids
