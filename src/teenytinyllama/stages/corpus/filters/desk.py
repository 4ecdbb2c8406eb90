"""Questions to the filters from the command line: a recipe in, a text to show out."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.errors import UserError
from teenytinyllama.recipe import FilterSettings, Recipe
from teenytinyllama.stages.corpus.filters import calibrate as calibration
from teenytinyllama.stages.corpus.filters.explain import explain_document


def explain(recipe: Recipe, corpus_dir: Path, document_id: str) -> str:
    """What each rule of the recipe says of one document of its corpus."""
    return explain_document(corpus_dir, document_id, _settings(recipe), recipe.language)


def calibrate(recipe: Recipe, clean_path: Path) -> str:
    """Thresholds for the recipe's language and word rule, learnt from clean text, as TOML."""
    settings = _settings(recipe)
    documents = calibration.read_clean(clean_path)
    found = calibration.calibrate(documents, settings, recipe.language)
    return calibration.as_toml(found, settings, recipe.language)


def _settings(recipe: Recipe) -> FilterSettings:
    if recipe.corpus is None:
        raise UserError(
            "room-not-in-recipe",
            recipe.name,
            "has no section [corpus]",
            "add [corpus] to the recipe",
        )
    return recipe.corpus.filters
