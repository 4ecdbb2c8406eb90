"""What the quantize stage would fail on, known from the recipe and the folders that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.post_training import QuantizeSettings
from teenytinyllama.settings.recipe import Recipe

# Weights that share a scale: every row of a matrix must be a multiple of it. For q4_k_m this is
# the block of the types that llama.cpp falls back to, for awq the smallest group.
BLOCK_SIZES = {"f16": 1, "q8_0": 32, "q4_0": 32, "q4_k_m": 32, "awq": 32}
EXTRAS = {"q4_k_m": "llama-cpp", "awq": "awq"}
LIBRARIES = {"q4_k_m": ("xllamacpp", "llama_cpp"), "awq": ("llmcompressor",)}


def check(settings: QuantizeSettings, recipe: Recipe) -> Iterator[UserError]:
    """Widths that a format cannot pack, a vocabulary that GGUF cannot hold, missing libraries."""
    if find_spec("gguf") is None:
        yield missing_extra("gguf", "quantize")
    for name in settings.formats:
        libraries = LIBRARIES.get(name, ())
        if libraries and not any(map(find_spec, libraries)):
            yield missing_extra(libraries[0], EXTRAS[name])
    if (
        recipe.tokenizer
        and recipe.tokenizer.model == "unigram"
        and set(settings.formats) != {"awq"}
    ):
        yield UserError(
            "tokenizer-not-bpe",
            'tokenizer.model = "unigram"',
            "llama.cpp merges the tokens of a Llama by score (BPE), GGUF cannot hold this one",
            '--set tokenizer.model="bpe"',
        )
    yield from _check_widths(settings, recipe)


def _check_widths(settings: QuantizeSettings, recipe: Recipe) -> Iterator[UserError]:
    widths = _widths(recipe)
    fits = [
        name
        for name in settings.formats
        if not any(width % BLOCK_SIZES[name] for width in widths.values())
    ]
    for setting, width in widths.items():
        wrong = [name for name in settings.formats if width % BLOCK_SIZES[name]]
        if not wrong:
            continue
        block = BLOCK_SIZES[wrong[0]]
        yield UserError(
            "quantize-shape",
            f"{setting} = {width}",
            f"{', '.join(wrong)} packs {block} weights of a row at a time, and {width} is not a "
            f"multiple of {block}",
            f"--set 'quantize.formats={json.dumps(fits or ['f16'])}', or {setting} = "
            f"{max(block, width // block * block)} or {(width // block + 1) * block}",
        )


def _widths(recipe: Recipe) -> dict[str, int]:
    """Lengths of the rows of the model's matrices, by setting; nothing where it is not known."""
    if recipe.pretrain is None:
        return {}
    start = user_path(recipe.pretrain.start_from) / "config.json"
    if not recipe.pretrain.start_from:
        model: Any = recipe.pretrain.model.model_dump()
    elif start.is_file():
        try:
            model = json.loads(start.read_bytes())
        except ValueError:
            return {}
    else:
        return {}
    where = "pretrain.start_from: " if recipe.pretrain.start_from else "pretrain.model."
    names = ("hidden_size", "intermediate_size")
    return {f"{where}{name}": model[name] for name in names if isinstance(model.get(name), int)}
