"""Questions to the filters from the command line: a recipe in, a text to show out."""

from __future__ import annotations

from pathlib import Path

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import FilterSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.stages.corpus.filters import calibration
from teenytinyllama.stages.corpus.filters.thresholds import load_language
from teenytinyllama.stages.corpus.inspection import explain_document


def explain(recipe: Recipe, corpus_dir: Path, document_id: str) -> str:
    """What each rule of the recipe says of one document of its corpus."""
    return explain_document(corpus_dir, document_id, _settings(recipe), recipe.language)


def calibrate(recipe: Recipe, clean_path: Path) -> str:
    """Thresholds for the recipe's language and word rule, learnt from clean text, as TOML."""
    settings = _settings(recipe)
    documents = calibration.read_clean(clean_path)
    found = calibration.calibrate(documents, settings, recipe.language)
    shown = calibration.as_toml(found, settings, recipe.language)
    if settings.toxicity is not None:
        from teenytinyllama.stages.corpus.filters.toxicity import Toxicity, show_curve

        chosen = settings.toxicity.model_copy(update={"clean_path": str(clean_path)})
        sentences = load_language(recipe.language).identity_sentences
        shown += "\n\n" + show_curve(Toxicity(chosen, recipe.language), sentences)
    return shown


def _settings(recipe: Recipe) -> FilterSettings:
    if recipe.corpus is None:
        raise UserError(
            "stage-not-in-recipe",
            recipe.name,
            "has no section [corpus]",
            "add [corpus] to the recipe",
        )
    return recipe.corpus.filters
