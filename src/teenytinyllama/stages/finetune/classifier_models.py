"""Models to fine-tune: the run's own, its random-init baseline, and any from the Hub."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import check_tokenizer, copy_tokenizer, load_whole
from teenytinyllama.modeling.lora import CLASSIFIER_HEADS
from teenytinyllama.regular_files import user_path
from teenytinyllama.stages.finetune.labelled_dataset import Example
from teenytinyllama.stages.finetune.length_grouping import EncodedExample, encode_with

logger = logging.getLogger(__name__)


# Weight of the mean beside the last token's own state, which the residual carries past it. With
# 10 and with 1,000 scores were lower (EXPERIMENTS.md).
MEAN_WEIGHT = 100.0


@dataclass(frozen=True)
class FineTunableModel:
    """How to encode for a model, make it a classifier, and write the files beside its weights."""

    name: str
    encode: Callable[[Example], EncodedExample]
    make: Callable[[list[str], int], Any]
    """(label names, seed) -> classifier in fp32; the seed initialises the new head."""
    pad_id: int
    max_length: int
    """Tokens of one example at most."""
    write_files: Callable[[Path], None]


def own_model(
    pretrain_dir: Path,
    tokenizer_dir: Path,
    encoder: TextEncoder,
    max_length: int,
    *,
    is_random: bool = False,
    keeps_head: bool = False,
    takes_mean: bool = False,
) -> FineTunableModel:
    """The run's base model, or with `is_random` the same sizes with random weights.

    With `keeps_head` the classifier keeps the base model's `lm_head` beside its own head; with
    `takes_mean` it gets one more layer, initialised as a mean over tokens.
    """
    final_dir = pretrain_dir / "final"
    check_tokenizer(final_dir, encoder, tokenizer_dir)

    def make(label_names: list[str], seed: int) -> Any:
        config = AutoConfig.from_pretrained(final_dir, **_labels(label_names))
        config.pad_token_id = encoder.pad_id
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if is_random:
                model = AutoModelForSequenceClassification.from_config(config).float()
            else:
                model = _load(AutoModelForSequenceClassification, final_dir, config, is_own=True)
            if keeps_head:
                _add_language_head(model, None if is_random else final_dir)
            if takes_mean:
                _add_mean_layer(model)
            return model

    return FineTunableModel(
        name="random-init" if is_random else "own",
        encode=encode_with(encoder, max_length),
        make=make,
        pad_id=encoder.pad_id,
        max_length=max_length,
        write_files=lambda folder: copy_tokenizer(tokenizer_dir, folder),
    )


def _add_language_head(model: Any, source: Path | None) -> None:
    """Give a classifier the `lm_head` of the causal model in `source`, or a new one."""
    if source is None:
        head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
        torch.nn.init.normal_(head.weight, std=model.config.initializer_range)
    else:
        head = load_whole(AutoModelForCausalLM, source, local_files_only=True).lm_head
    if model.config.tie_word_embeddings:
        head.weight = model.model.embed_tokens.weight
    model.lm_head = head


def _add_mean_layer(model: Any) -> None:
    """Append a decoder layer that adds the mean of all tokens' states to the last token's.

    The library's classifiers read the last token only. This layer makes them read all without a
    new architecture: with queries of zero, attention weighs every token the same. It is trained
    like any other layer.
    """
    config = model.config
    if config.num_key_value_heads != config.num_attention_heads:
        raise UserError(
            "pooling-needs-all-heads",
            'finetune.pooling = "mean"',
            f"the model has {config.num_key_value_heads} key-value heads for "
            f"{config.num_attention_heads} heads; a mean needs as many",
            '--set finetune.pooling="last"',
        )
    config.num_hidden_layers += 1
    if getattr(config, "layer_types", None):  # of a Qwen3
        config.layer_types = [*config.layer_types, config.layer_types[-1]]
    layer = type(model.model.layers[-1])(config, config.num_hidden_layers - 1).float()
    attention = layer.self_attn
    with torch.no_grad():
        for weight in (
            attention.k_proj.weight,
            layer.mlp.gate_proj.weight,
            layer.mlp.up_proj.weight,
        ):
            torch.nn.init.normal_(weight, std=config.initializer_range)
        # With QK-norm the gain: the norm of a query of zero has no slope.
        getattr(attention, "q_norm", attention.q_proj).weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        # Average what the head would have read: the normed states.
        layer.input_layernorm.weight.copy_(model.model.norm.weight)
        torch.nn.init.eye_(attention.v_proj.weight)
        torch.nn.init.eye_(attention.o_proj.weight).mul_(MEAN_WEIGHT)
    model.model.layers.append(layer)


def other_model(place: str, max_length: int) -> FineTunableModel:
    """Any Hugging Face model, by id or folder, with its own tokenizer, such as BERTimbau.

    Examples are cut at `max_length` tokens or the model's positions, whichever is less. Raises
    UserError where it cannot be loaded; the weights are loaded by `make`.
    """
    source = str(user_path(place)) if place.startswith("~") else place
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            sketch = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # transformers, tokenizers and the hub share no base class of errors
        raise _unreadable(place, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        what = "its tokenizer has neither a padding token nor an end token"
        raise UserError(
            "model-without-padding", f"finetune.models {place}", what, "name another model"
        )
    if (positions := _num_positions(sketch)) < max_length:
        logger.info(f"finetune: {place} reads {positions} tokens, max_length = {max_length}")
        max_length = positions
    takes_types = (
        "token_type_ids" in inspect.signature(sketch.forward).parameters
        and getattr(config, "type_vocab_size", 2) > 1
    )

    def encode(example: Example) -> EncodedExample:
        whole = len(tokenizer(*example.texts, verbose=False)["input_ids"])
        read = tokenizer(*example.texts, truncation=True, max_length=max_length)
        ids = tuple(read["input_ids"])
        types = tuple(read.get("token_type_ids", ())) if takes_types else ()
        return EncodedExample(ids, example.label, len(ids) < whole, types)

    def make(label_names: list[str], seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = AutoConfig.from_pretrained(
                source, trust_remote_code=False, **_labels(label_names)
            )
            config.pad_token_id = tokenizer.pad_token_id
            return _load(AutoModelForSequenceClassification, source, config, is_own=False)

    return FineTunableModel(
        name=Path(source).resolve().name if Path(source).is_dir() else place.replace("/", "--"),
        encode=encode,
        make=make,
        pad_id=int(tokenizer.pad_token_id),
        max_length=max_length,
        write_files=lambda folder: tokenizer.save_pretrained(folder),
    )


def _num_positions(model: Any) -> int:
    """The context length of a model; a very large number where it has none."""
    stated = getattr(model.config, "max_position_embeddings", None)
    found = int(stated) if isinstance(stated, int) and stated > 0 else sys.maxsize
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            # RoBERTa's positions start after the padding index.
            found = min(found, module.num_embeddings - padding - 1)
    return found


def _load(kind: Any, place: Path | str, config: Any, *, is_own: bool) -> Any:
    """A classifier with the weights of the model at `place`; only its head may be new.

    Our own files hold exactly a causal model. Other models may have heads for other tasks, and lack
    a classification head or the pooling layer below it.
    """

    def may_be_new(name: str) -> bool:
        heads = ("score",) if is_own else CLASSIFIER_HEADS
        return any(part in heads for part in name.split("."))

    return load_whole(
        kind,
        place,
        config=config,
        trust_remote_code=False,
        may_be_new=may_be_new,
        may_be_unused=lambda name: not is_own or name == "lm_head.weight",
        fix="ttl pretrain RECIPE" if is_own else "name a folder with all its weights",
    )


def _labels(names: list[str]) -> dict[str, Any]:
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _unreadable(place: str, error: Exception) -> UserError:
    what = f"cannot be loaded ({(str(error).splitlines() or ['?'])[0][:160]})"
    fix = "check the id and the network, or name a folder"
    return UserError("model-missing", f"finetune.models {place}", what, fix)
