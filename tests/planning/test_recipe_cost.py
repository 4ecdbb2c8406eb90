"""What a recipe's training takes."""

from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.recipe_cost import cost_of_recipe, needs_of
from teenytinyllama.planning.reference_data import gpus
from teenytinyllama.settings.recipe import load_recipe


def asked(**changes):
    given = {"gpu": gpus()["a100-40gb"], "usd_per_hour": 1.29, "text_bytes": 1e9}
    return PlanRequest(**given | changes)


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("name", "parameters"), [("paper-160m", 162_417_408), ("paper-460m", 468_239_360)]
)
def test_the_papers_models_have_the_papers_sizes(name, parameters):
    assert needs_of(load_recipe(RECIPES / f"{name}.toml")).parameters == parameters


@pytest.mark.parametrize(
    ("name", "hours"),
    [("paper-160m", 38.7), ("paper-460m", 280.5)],  # the paper's records
)
def test_the_papers_hours_at_the_papers_utilisation(name, hours):
    recipe = load_recipe(RECIPES / f"{name}.toml")
    mfu = {"paper-160m": 0.0909, "paper-460m": 0.1004}[name]
    cost = cost_of_recipe(recipe, asked(mfu=mfu), price_is_given=False)
    assert cost.hours == pytest.approx(hours, rel=0.15)
    assert cost.flops == cost.tokens * flops_per_token(
        recipe.pretrain.model, 32_000, recipe.pretrain.sequence_length
    )


def test_the_price_is_that_of_the_options_then_of_the_recipe_then_of_the_gpu(tmp_path):
    path = tmp_path / "r.toml"
    text = 'name = "r"\n[energy]\nusd_per_gpu_hour = 2.0\n[pretrain]\n'
    path.write_text(text)
    recipe = load_recipe(path)
    hours = cost_of_recipe(recipe, asked(), price_is_given=False).hours
    assert cost_of_recipe(recipe, asked(), price_is_given=False).usd == pytest.approx(2 * hours)
    assert cost_of_recipe(recipe, asked(), price_is_given=True).usd == pytest.approx(1.29 * hours)
    path.write_text(text.replace("2.0", "0.0"))
    free = load_recipe(path)
    assert cost_of_recipe(free, asked(), price_is_given=False).usd == pytest.approx(1.29 * hours)
    assert cost_of_recipe(free, asked(usd_per_hour=0.0), price_is_given=False).usd is None


def test_a_recipe_without_training_has_no_needs(tmp_path):
    (tmp_path / "r.toml").write_text('name = "r"\n')
    with pytest.raises(UserError) as error:
        needs_of(load_recipe(tmp_path / "r.toml"))
    assert error.value.code == "stage-not-in-recipe"
