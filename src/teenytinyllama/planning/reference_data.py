"""The given data of the planner, from `reference_data.toml`: cards, laws, anchors, shapes."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from teenytinyllama.settings.training import ModelSettings


@dataclass(frozen=True)
class Gpu:
    """One card: peak rate (dense bf16), memory, mean power in training, price, and where from."""

    name: str
    title: str
    peak_tflops: float
    memory_gb: float
    mean_power_w: float
    usd_per_hour: float
    power_from: str
    price_from: str


@dataclass(frozen=True)
class Anchor:
    """The end of a public run: what it was, and the held-out loss it reached, nats per token."""

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
    """Cards by the name that `--gpu` takes."""
    return {name: Gpu(name=name, **row) for name, row in _data()["gpus"].items()}


@cache
def shapes() -> tuple[ModelSettings, ...]:
    """Sizes that a plan chooses among, small to large."""
    return tuple(ModelSettings(**row) for row in _data()["shapes"])


@cache
def anchors() -> tuple[Anchor, ...]:
    """Public runs on Portuguese text that predictions are held against."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    found = []
    for row in _data()["anchors"]:
        model = ModelSettings(
            **{name: row[name] for name in sizes},
            num_key_value_heads=row.get("num_key_value_heads", 0),
        )
        found.append(Anchor(row["name"], model, row["tokens"], row["unique_tokens"], row["loss"]))
    return tuple(found)


def law_constants(name: str) -> dict[str, Any]:
    """Constants of one published law."""
    constants: dict[str, Any] = _data()["laws"][name]
    return constants


def law_names() -> list[str]:
    """The published laws."""
    return list(_data()["laws"])


def repetition() -> tuple[float, float]:
    """Muennighoff's two half-lives: of repeated tokens, of parameters beyond need."""
    row = _data()["repetition"]
    return row["tokens_half_life_epochs"], row["parameters_half_life"]
