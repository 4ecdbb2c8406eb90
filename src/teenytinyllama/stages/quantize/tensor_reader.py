"""The weights of a model folder, one tensor at a time, checked against its config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from teenytinyllama.errors import UserError

Array = NDArray[np.float32]
LAYER = "model.layers.{}."


class TensorReader:
    """Configuration and tensors of a Llama or Qwen3 in a plain Hugging Face folder."""

    def __init__(self, folder: Path) -> None:
        """Read the configuration and the index. Raises UserError for anything else."""
        self.folder = folder
        self.config = _read_config(folder)
        self._files = _tensor_files(folder)

    def read(self, name: str) -> Array:
        """One tensor in fp32. Raises UserError where it is missing, misshapen or not finite."""
        where = f"{self.folder}: {name}"
        if name not in self._files:
            what = "the checkpoint does not have this tensor"
            raise UserError("weights-missing", where, what, "save the model again")
        try:
            with safe_open(self._files[name], framework="pt") as file:
                found: torch.Tensor = file.get_tensor(name).float()
        except (OSError, SafetensorError) as error:
            raise _damaged(self._files[name], error) from error
        expected = self.shapes()[name]
        if tuple(found.shape) != expected:
            what = f"its shape is {tuple(found.shape)}, config.json asks for {expected}"
            raise UserError("weights-shape", where, what, "correct config.json, or save again")
        num_bad = int((~found.isfinite()).sum())
        if num_bad:
            what = f"{num_bad:,} of {found.numel():,} values are NaN or infinite"
            raise UserError("weights-not-finite", where, what, "use an earlier checkpoint")
        array: Array = found.numpy()
        return array

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of this configuration, in the order of the model."""
        c = self.config
        hidden, inner, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
        width = heads * self.head_size
        kv_width = self.num_key_value_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (c["vocab_size"], hidden),
        }
        for number in range(c["num_hidden_layers"]):
            prefix = LAYER.format(number)
            shapes |= {
                prefix + "input_layernorm.weight": (hidden,),
                prefix + "self_attn.q_proj.weight": (width, hidden),
                prefix + "self_attn.k_proj.weight": (kv_width, hidden),
                prefix + "self_attn.v_proj.weight": (kv_width, hidden),
                prefix + "self_attn.o_proj.weight": (hidden, width),
                **(self._norms_of_heads(prefix) if self.has_qk_norm else {}),
                prefix + "post_attention_layernorm.weight": (hidden,),
                prefix + "mlp.gate_proj.weight": (inner, hidden),
                prefix + "mlp.up_proj.weight": (inner, hidden),
                prefix + "mlp.down_proj.weight": (hidden, inner),
            }
        shapes["model.norm.weight"] = (hidden,)
        if not c.get("tie_word_embeddings", False):
            shapes["lm_head.weight"] = (c["vocab_size"], hidden)
        return shapes

    def _norms_of_heads(self, prefix: str) -> dict[str, tuple[int, ...]]:
        return {f"{prefix}self_attn.{part}_norm.weight": (self.head_size,) for part in "qk"}

    @property
    def has_qk_norm(self) -> bool:
        """Whether queries and keys of each head are normed."""
        return bool(self.config["model_type"] == "qwen3")

    def check(self) -> None:
        """Read every tensor once. Raises UserError for the first one that is wrong."""
        for name in self.shapes():
            self.read(name)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        size = self.config.get("head_dim")
        return int(size or self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def num_key_value_heads(self) -> int:
        """Key-value heads; as many as query heads where the configuration does not say."""
        heads = self.config.get("num_key_value_heads")
        return int(heads or self.config["num_attention_heads"])


def _read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a plain Llama. Raises UserError for anything else."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        what = f"cannot be read ({error})"
        raise UserError("model-missing", str(path), what, "name a folder with a model") from error
    kind = config.get("model_type")
    if kind not in ("llama", "qwen3"):
        what = f'model_type is "{kind}", expected "llama" or "qwen3"'
        raise UserError("model-unsupported", str(path), what, "name a folder with a Llama")
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise UserError(
                "model-unsupported", str(path), f"{name} is true", "models here have no biases"
            )
    return config


def _tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor: one safetensors file, or several with an index."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        return {name: folder / file for name, file in names.items()}
    path = folder / "model.safetensors"
    if not path.is_file():
        what = "no model.safetensors in this folder"
        raise UserError("model-missing", str(folder), what, "name a folder with a model")
    try:
        with safe_open(path, framework="pt") as file:
            return dict.fromkeys(file.keys(), path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        "weights-damaged", str(path), f"cannot be read ({error})", "use an earlier checkpoint"
    )
