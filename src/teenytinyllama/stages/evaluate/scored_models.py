"""Loads the models to score: the run's own, its checkpoints, or any Hugging Face folder or id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from teenytinyllama.artifacts.file_hashes import verify_model
from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import load_whole
from teenytinyllama.regular_files import user_path

WEIGHTS = ("*.safetensors", "*.bin", "config.json")
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges.txt", "special_tokens_map.json")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class ScoredModel:
    """A model with its tokenizer; `identity` is what its scores depend on."""

    name: str
    model: Any
    tokenizer: Any
    identity: dict[str, Any]
    context_length: int

    def encode_document(self, text: str) -> list[int]:
        """Ids of a whole document by the model's own tokenizer, between its BOS and EOS.

        A tokenizer without BOS puts EOS first, as in its training.
        """
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        eos, bos = self.tokenizer.eos_token_id, self.tokenizer.bos_token_id
        bos = eos if bos is None else bos
        return [*([] if bos is None else [bos]), *ids, *([] if eos is None else [eos])]

    def count_unknown(self, texts: Iterable[str]) -> int:
        """Number of unknown tokens in the texts; 0 for a tokenizer that has none."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            return 0  # byte-level tokenizers encode everything and name EOS here
        encode = self.tokenizer.encode
        return sum(encode(text, add_special_tokens=False).count(unknown) for text in texts)


def load_model(name: str, place: str | Path, *, precision: str) -> ScoredModel:
    """Load a Hugging Face folder or id, on the GPU where there is one.

    Raises UserError where nothing can be loaded.
    """
    folder = user_path(place)
    if folder.is_dir():
        verify_model(folder)
    else:
        folder = _download(str(place))
    fix = "name a folder with config.json, weights and tokenizer files"
    _check_kind(folder, str(place))
    model = load_whole(
        AutoModelForCausalLM,
        folder,
        dtype=DTYPES[precision],
        trust_remote_code=False,
        # Published folders often hold buffers or heads that we do not use.
        may_be_unused=lambda _: True,
        fix=fix,
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the libraries' errors share no base class
        what = f"its tokenizer cannot be loaded ({(str(error).splitlines() or ['?'])[0][:200]})"
        raise UserError("model-unreadable", str(place), what, fix) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    identity = {
        "weights": fingerprint_of_files(folder, WEIGHTS),
        "tokenizer": fingerprint_of_files(folder, TOKENIZER_FILES),
        "precision": precision,
        "device": device.type,
        "torch": torch.__version__,
    }
    return ScoredModel(name, model, tokenizer, identity, context_length_of(model, tokenizer))


def _check_kind(folder: Path, place: str) -> None:
    """Raise UserError for an encoder: loaded as a language model, BERT sees what it predicts."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # damaged: loading the model says how
        return
    kind = config.model_type
    fits = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if not fits or (kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_decoder):
        raise UserError(
            "model-kind",
            f"evaluate.models {place}",
            f"a model of type {kind} does not predict the next token",
            "name a causal language model; encoders can be fine-tuned with finetune.models",
        )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    fix = "check the id and the network, or name a folder"
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError("model-missing", name, "no such folder", fix)
    try:
        return Path(
            snapshot_download(name, ignore_patterns=["*.msgpack", "*.h5", "*.ot", "*.onnx"])
        )
    except Exception as error:  # the Hub's errors share no base class
        reason = str(error).splitlines()[0][:160]
        what = f"neither a folder nor a model that can be downloaded ({reason})"
        raise UserError("model-missing", name, what, fix) from error


def fingerprint_of_files(folder: Path, patterns: tuple[str, ...]) -> str:
    """SHA-256 over names and bytes of the matching files, so that a swapped file is noticed."""
    digest = hashlib.sha256()
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    paths -= set(folder.glob("optimizer*"))  # beside the model in our checkpoints
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + sha256_file(path).encode() + b"\n")
    return digest.hexdigest()


def context_length_of(model: Any, tokenizer: Any) -> int:
    """Tokens that a model reads at once by its configuration; 2048 where that does not say."""
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        length = getattr(model.config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    length = int(getattr(tokenizer, "model_max_length", 0) or 0)
    return length if 0 < length < 1_000_000 else 2048


def folder_name(name: str) -> str:
    """A model's id or path as the name of its folder of scores, never a hidden one.

    >>> folder_name("owner/model-160m"), folder_name("./model")
    ('owner--model-160m', 'model')
    """
    return re.sub(r"[^\w.-]+", "-", name.strip("/").replace("/", "--")).lstrip(".-") or "model"
