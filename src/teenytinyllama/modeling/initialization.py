"""Initial weights of a training: random, or another model's (paper section 2 and footnote 3).

A model with another tokenizer keeps its layers and gets a new embedding: a token that both
vocabularies have keeps its vector, a new token starts as the mean of the old tokens that its text
encodes to. The paper swapped embeddings without this, and its loss was higher for a quarter of
the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, Qwen3Config

from teenytinyllama.artifacts.model_folder import check_model_folder
from teenytinyllama.artifacts.subword_tokenizer import token_bytes
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import CAUSAL_MODELS, CausalModel, load_whole, loading
from teenytinyllama.modeling.model_size import num_key_value_heads
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.training import ModelSettings

SPACES = ("▁", " ")
"""How a piece of SentencePiece begins that follows a space, there and in our `tokenizer.json`."""


def llama_config(
    model: ModelSettings, vocab_size: int, *, bos_id: int, eos_id: int, pad_id: int
) -> LlamaConfig | Qwen3Config:
    """The `transformers` configuration of these sizes."""
    # Qwen3's default is 128 numbers a head, whatever the other sizes.
    own = {"head_dim": model.hidden_size // model.num_attention_heads}
    return CAUSAL_MODELS[model.kind].config_class(
        **(own if model.kind == "qwen3" else {}),
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
        architectures=[CAUSAL_MODELS[model.kind].__name__],
    )


def build_model(config: LlamaConfig | Qwen3Config, *, seed: int) -> CausalModel:
    """A new model in fp32 whose weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CAUSAL_MODELS[config.model_type](config)
    return model.float()


class InitialModel(NamedTuple):
    """A model to train, its sizes, and optimizer moments where a checkpoint has them."""

    model: Any
    settings: ModelSettings
    optimizer: dict[str, Tensor] | None
    num_shared_tokens: int | None
    """Tokens that kept their vector; None for the same tokenizer and for random weights."""


def initialize_randomly(
    settings: ModelSettings, vocab_size: int, special_ids: dict[str, int], seed: int
) -> InitialModel:
    """Random weights that depend on `seed` alone."""
    config = llama_config(settings, vocab_size, **special_ids)
    return InitialModel(build_model(config, seed=seed), settings, None, None)


def initialize_from(
    place: str, settings: ModelSettings, tokenizer_dir: Path, special_ids: dict[str, int]
) -> InitialModel:
    """The Llama at `place`: a folder, one of our checkpoints, or a Hub id.

    Raises UserError where it is not a Llama, or the recipe asks for other sizes.
    """
    where = f'pretrain.start_from = "{place}"'
    place = str(user_path(place)) if place.startswith("~") else place
    if not Path(place).is_dir() and place.startswith((".", "/", "runs")):
        raise UserError("start-missing", where, "no such folder", "give a folder with config.json")
    if Path(place).is_dir():
        check_model_folder(Path(place))
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # the library's errors share no base class
        reason = (str(error).splitlines() or ["?"])[0]
        raise UserError("start-missing", where, reason, "give a folder with config.json") from error
    if config.model_type not in CAUSAL_MODELS:
        what = f'model_type is "{config.model_type}", only "llama" and "qwen3" can be trained'
        raise UserError("start-not-llama", where, what, "start from a Llama")
    found = settings_of(config)
    if settings not in (ModelSettings(), found):
        raise UserError(
            "start-other-sizes",
            where,
            f"its sizes ({_sizes(found)}) are not those of [pretrain.model] ({_sizes(settings)})",
            "leave out [pretrain.model]: the sizes come from the model",
        )
    kind = CAUSAL_MODELS[config.model_type]
    model = load_whole(kind, place, fix="start from a model with all its weights")
    new_tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    with loading(place, "start from a model with its tokenizer"):
        old_tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    for name, value in special_ids.items():
        setattr(model.config, name.replace("_id", "_token_id"), value)
    if old_tokenizer.get_vocab() == new_tokenizer.get_vocab():
        moments = Path(place) / "optimizer.safetensors"
        return InitialModel(model, found, load_file(moments) if moments.is_file() else None, None)
    return InitialModel(
        model, found, None, transplant_embeddings(model, old_tokenizer, new_tokenizer)
    )


def settings_of(config: Any) -> ModelSettings:
    """The sizes in a Hugging Face configuration, as our settings."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    rope = getattr(config, "rope_parameters", None) or {}
    return ModelSettings(
        kind=config.model_type,
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
    return f"{model.kind}, {model.num_hidden_layers} layers x {model.hidden_size}"


def transplant_embeddings(model: Any, old_tokenizer: Any, new_tokenizer: Any) -> int:
    """Give `model` the vocabulary of `new_tokenizer`; returns how many tokens kept their vector.

    Changes embedding and head. Special tokens are matched by role.
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
    """For each new id the old ids whose vectors are averaged, and how many tokens are shared."""
    old_vocabulary = old_tokenizer.get_vocab()
    roles = ("unk_token", "bos_token", "eos_token", "pad_token")
    by_role = {getattr(new_tokenizer, r): getattr(old_tokenizer, r) for r in roles}
    text_of, old_text_of = _reader(new_tokenizer), _reader(old_tokenizer)
    is_written_alike = text_of("\u0120") == old_text_of("\u0120")
    special = set(new_tokenizer.all_special_tokens)
    old_ids = {old_text_of(token): index for token, index in old_vocabulary.items()}
    origins: list[list[int]] = []
    num_shared = 0
    for token in new_tokenizer.convert_ids_to_tokens(list(range(len(new_tokenizer)))):
        name, text = by_role.get(token) or token, text_of(token)
        if name in old_vocabulary and (is_written_alike or token in special):
            origins.append([old_vocabulary[name]])
        elif text is not None and text in old_ids:
            origins.append([old_ids[text]])
        else:
            origins.append(_encode(text, old_tokenizer) if text else [])
            continue
        num_shared += 1
    return origins, num_shared


def _reader(tokenizer: Any) -> Callable[[str], str | None]:
    """Maps a token to its text; None for a special token and for part of a character."""
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    special = set(tokenizer.all_special_tokens)
    if "ByteLevel" not in json.dumps(decoder):
        # Ours have plain spaces in their pieces; others, as SentencePiece does, this sign.
        space = "▁" if "▁" in json.dumps(decoder, ensure_ascii=False) else " "
        return lambda p: None if p.startswith("<") and p.endswith(">") else p.replace(space, " ")

    def read(token: str) -> str | None:
        try:
            return None if token in special else token_bytes(token).decode("utf-8")
        except (KeyError, UnicodeDecodeError):  # added as text; part of a character
            return None

    return read


def _encode(text: str, tokenizer: Any) -> list[int]:
    """Ids of `text`, whether or not the tokenizer adds a space before it."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    # SentencePiece puts a space before every text, byte-level BPE does not.
    adds_space = tokenizer.convert_ids_to_tokens(encode("a")[0]).startswith(SPACES)
    if not adds_space:
        return encode(text)
    if text.startswith(" "):
        return encode(text[1:])
    ids = encode(text)
    return ids[1:] if tokenizer.convert_ids_to_tokens(ids[0]) in SPACES else ids
