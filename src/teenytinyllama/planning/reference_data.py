"""Reference data of the planner, from `reference_data.toml`: GPUs, laws, public runs, shapes."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from teenytinyllama.datasheets import peak_tflops
from teenytinyllama.settings.training import ModelSettings


@dataclass(frozen=True)
class Gpu:
    """One GPU: peak rate (dense bf16), memory, mean power in training, price, and sources."""

    name: str
    title: str
    peak_tflops: float
    memory_gb: float
    mean_power_w: float
    usd_per_hour: float
    power_from: str
    price_from: str


@dataclass(frozen=True)
class ReferenceRun:
    """A public run: its size, its data and its final held-out loss in nats per token."""

    name: str
    model: ModelSettings
    tokens: float
    unique_tokens: float
    loss: float


@cache
def _data() -> dict[str, Any]:
    text = (files(__package__) / "reference_data.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def gpus() -> dict[str, Gpu]:
    """GPUs by the name that `--gpu` takes."""
    found = {}
    for name, row in _data()["gpus"].items():
        peak = row.get("peak_tflops") or peak_tflops(row["title"])
        found[name] = Gpu(name=name, **{**row, "peak_tflops": peak})
    return found


@cache
def shapes() -> tuple[ModelSettings, ...]:
    """Model sizes that a plan chooses from, small to large."""
    return tuple(ModelSettings(**row) for row in _data()["shapes"])


@cache
def tiny_shape() -> ModelSettings:
    """The size for a text that is too small for all of them."""
    return ModelSettings(**_data()["tiny_shape"])


@cache
def reference_runs() -> tuple[ReferenceRun, ...]:
    """Public runs on Portuguese text that predictions are compared with."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    found = []
    for row in _data()["reference_runs"]:
        model = ModelSettings(
            **{name: row[name] for name in sizes},
            num_key_value_heads=row.get("num_key_value_heads", 0),
        )
        found.append(
            ReferenceRun(row["name"], model, row["tokens"], row["unique_tokens"], row["loss"])
        )
    return tuple(found)


def law_constants(name: str) -> dict[str, Any]:
    """Constants of a published law."""
    constants: dict[str, Any] = _data()["laws"][name]
    return constants


def law_names() -> list[str]:
    """Names of the published laws."""
    return list(_data()["laws"])


def little_text_law() -> dict[str, float]:
    """Constants of the law of little text."""
    constants: dict[str, float] = _data()["little_text"]
    return constants


def repetition() -> tuple[float, float]:
    """Half-lives of repeated tokens and of excess parameters (Muennighoff et al. 2023)."""
    row = _data()["repetition"]
    return row["tokens_half_life_epochs"], row["parameters_half_life"]
