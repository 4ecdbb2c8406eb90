"""A recipe as text, and the codes of the problems that its stages' checks find."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.pipeline.recipe_check import find_problems
from teenytinyllama.pipeline.registry import BY_NAME
from teenytinyllama.settings.recipe import load_recipe

STORYBOOK = 'sources = [{ kind = "storybook", num_documents = 40 }]\n'


def problems(folder: Path, text: str, stage: str) -> dict[str, str]:
    """Code and line of each problem that one stage's check finds in a recipe."""
    path = folder / "checked.toml"
    path.write_text(f'name = "checked"\n{text}', encoding="utf-8")
    return {one.code: str(one) for one in find_problems(load_recipe(path), [BY_NAME[stage]])}
