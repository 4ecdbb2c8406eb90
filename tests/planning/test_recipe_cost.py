"""What a recipe's training takes."""

from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.planning.recipe_cost import needs_of
from teenytinyllama.settings.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("name", "parameters"), [("paper-160m", 162_417_408), ("paper-460m", 468_239_360)]
)
def test_the_papers_models_have_the_papers_sizes(name, parameters):
    assert needs_of(load_recipe(RECIPES / f"{name}.toml")).parameters == parameters


def test_a_recipe_without_training_has_no_needs(tmp_path):
    (tmp_path / "r.toml").write_text('name = "r"\n')
    with pytest.raises(UserError) as error:
        needs_of(load_recipe(tmp_path / "r.toml"))
    assert error.value.code == "stage-not-in-recipe"
