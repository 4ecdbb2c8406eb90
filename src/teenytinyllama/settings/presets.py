"""Sources by name: what a language's `sources.toml` says of a known dataset."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.recipe import Source


def with_presets(sources: Sequence[Source], language: str, where: str) -> tuple[Source, ...]:
    """The sources with every named preset filled in; what the recipe says itself wins.

    `where`: the setting that lists them. Raises UserError for a name that the language does not
    know.
    """
    return tuple(
        _filled(source, f"{where}.{index}", language) if source.preset else source
        for index, source in enumerate(sources)
    )


def presets_of(language: str) -> dict[str, dict[str, Any]]:
    """The known sources of a language, by name."""
    path = resources.files("teenytinyllama.languages") / language / "sources.toml"
    return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}


def _filled(source: Source, where: str, language: str) -> Source:
    known = presets_of(language)
    if source.preset not in known:
        raise UserError(
            "preset-unknown",
            f"{where}.preset",
            f'the language "{language}" has no source of the name "{source.preset}"',
            did_you_mean(source.preset, known) if known else "give kind, path and license instead",
        )
    said = {name: getattr(source, name) for name in source.model_fields_set}
    return Source(**{"name": source.preset, **known[source.preset], **said})
