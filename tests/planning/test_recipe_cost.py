"""What a recipe's training takes."""

from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.recipe_cost import check_budget, cost_of_recipe, needs_of
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


def test_an_ensemble_and_copies_of_weights_are_counted(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\n[pretrain]\n')
    one = needs_of(load_recipe(path))
    levers = """ensemble = { members = 3 }
averaging = { ema_decay = 0.9, last_epochs = 2 }
checkpoints = { keep_weights = "best" }"""
    path.write_text(path.read_text() + levers)
    recipe = load_recipe(path)
    many = needs_of(recipe)
    assert many.trainings == 5  # three members, the student, and its look at three answers
    assert many.flops == 5 * one.flops
    # Four copies in each of three checkpoints, and the members.
    assert many.disk_bytes - one.disk_bytes == 4 * one.parameters * (4 * 3 + 3)
    assert many.least_memory_bytes - one.least_memory_bytes == 4 * one.parameters * (4 + 3)
    path.write_text(path.read_text().replace("members = 3", "members = 3, chained = true"))
    assert needs_of(load_recipe(path)).trainings == pytest.approx(5 + 2 / 3)
    path.write_text(path.read_text() + "\nsecond_token_weight = 0.2\n")
    flops = 6 * 768 * (768 + 32_000)  # for each token of each of the four models
    more = needs_of(load_recipe(path)).flops - (5 + 2 / 3) * one.flops
    assert more == pytest.approx(4 * flops * one.tokens, rel=1e-6)
    cost = cost_of_recipe(recipe, asked(), price_is_given=False)
    assert cost.hours * 3600 * 312e12 * 0.4 == pytest.approx(many.flops)
    check_budget(cost, asked(budget_hours=cost.hours))
    with pytest.raises(UserError, match=r"num_steps = 499 in its"):
        check_budget(cost, asked(budget_hours=cost.hours * 0.4999))


def test_a_recipe_without_training_has_no_needs(tmp_path):
    (tmp_path / "r.toml").write_text('name = "r"\n')
    with pytest.raises(UserError) as error:
        needs_of(load_recipe(tmp_path / "r.toml"))
    assert error.value.code == "stage-not-in-recipe"
