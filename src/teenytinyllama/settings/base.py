"""Shared by all settings: number types, the strict base class, path expansion, `[energy]`."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from teenytinyllama.regular_files import user_path

Fraction = Annotated[float, Field(ge=0, le=1)]
# What torch's and numpy's integers hold: larger seeds and sizes would fail hours into a run.
MAX_INTEGER = 2**63 - 1
Positive = Annotated[int, Field(gt=0, le=MAX_INTEGER)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no silent conversion, no infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )
    say_how: ClassVar[frozenset[str]] = frozenset()
    """Settings that say how the work is done, or shown, and not what comes out of it."""

    def of_the_result(self) -> dict[str, Any]:
        """The settings as JSON, those that `say_how` at their defaults: what a result is of."""
        found = self.model_dump(mode="json")
        plain = {name: type(self).model_fields[name].get_default() for name in self.say_how}
        return {**found, **plain}


def expand_path(pattern: str) -> list[Path]:
    """Files of a path, a folder (all files below it) or a glob, sorted, without dot files.

    Empty where there are none: the reader of the source raises the error.
    """
    path = user_path(pattern)
    if path.is_file():
        return [path]
    found = files_below(path) if path.is_dir() else matches(path)
    return sorted(f for f in found if f.is_file() and not f.name.startswith("."))


def matches(pattern: Path) -> Iterator[Path]:
    """Paths that a glob names. A folder that exists as written, such as `[1990]`, is no pattern."""
    here, escaped = Path(pattern.anchor), Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts:
        here /= part
        escaped /= glob.escape(part) if here.exists() else part
    return (Path(name) for name in glob.iglob(str(escaped), recursive=True))  # noqa: PTH207


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, but those of run folders inside it: what `ttl` made is no source.

    A run folder is known by its `run.json` beside its `.lock`.
    """
    for root, folders, names in os.walk(folder):
        if {"run.json", ".lock"} <= set(names) and Path(root) != folder:
            folders.clear()
        else:
            yield from (Path(root) / name for name in names)


def check_whole_rows(tokens_per_step: int, sequence_length: int) -> None:
    """Raise ValueError where a step is not a whole number of sequences; names the nearest."""
    if rest := tokens_per_step % sequence_length:
        below = tokens_per_step - rest
        near = " or ".join(str(n) for n in (below, below + sequence_length) if n)
        raise ValueError(
            f"tokens_per_step = {tokens_per_step} is not a multiple of "
            f"sequence_length = {sequence_length}; nearest: {near}"
        )


class EnergySettings(Settings):
    """`[energy]`: grid and prices, for the carbon and money of a run."""

    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "BRA"
    """Country of the electricity grid, ISO 3166 alpha-3: decides the carbon intensity."""
    usd_per_gpu_hour: Annotated[float, Field(ge=0)] = 0.0
    """Price of one hour of the machine in US dollars."""
    usd_per_kwh: Annotated[float, Field(ge=0)] = 0.0
    """Price of electricity in US dollars, for a machine of your own."""

    def cost_usd(self, seconds: float, kwh: float) -> float:
        """Cost of the machine for so many seconds, and of so much electricity."""
        return seconds / 3600 * self.usd_per_gpu_hour + kwh * self.usd_per_kwh
