"""Every recipe loads, and the paper's are the paper's."""

from pathlib import Path

import pytest

from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.planner import make_plan
from teenytinyllama.planning.recipe_cost import needs_of
from teenytinyllama.planning.reference_data import gpus
from teenytinyllama.settings.recipe import load_recipe
from teenytinyllama.training.optimizers import learning_rate_factor

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def load(name):
    return load_recipe(next(path for path in RECIPES if path.stem == name))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_loads_and_is_named_as_its_file(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("name", "parameters", "num_steps", "peak", "warmup_steps", "num_checkpoints"),
    [
        ("paper-160m", 162_417_408, 458_000, 6e-4, 5_000, 20),
        ("paper-460m", 468_239_360, 1_200_000, 3e-4, 10_000, 48),
    ],
)
def test_tables_2_and_3(name, parameters, num_steps, peak, warmup_steps, num_checkpoints):
    recipe = load(name)
    pretrain = recipe.pretrain
    assert num_parameters(pretrain.model, recipe.tokenizer.vocab_size) == parameters
    assert pretrain.num_steps == num_steps
    assert pretrain.tokens_per_step == 8192
    assert pretrain.optimizer.peak_learning_rate == peak
    assert pretrain.optimizer.betas == (0.9, 0.999)
    assert pretrain.optimizer.weight_decay == 0.01
    assert pretrain.schedule.kind == "cosine"
    assert learning_rate_factor(warmup_steps - 1, pretrain.schedule, num_steps) == 1
    assert num_steps // pretrain.checkpoints.permanent_every_steps == num_checkpoints


def test_the_paper_s_defects_are_left_out():
    pretrain = load("paper-160m").pretrain
    assert pretrain.optimizer.max_grad_norm > 0


@pytest.mark.parametrize("size", ["160m", "460m"])
def test_our_best_has_the_paper_s_architecture(size):
    assert load(f"best-{size}").pretrain.model == load(f"paper-{size}").pretrain.model


def test_the_recipe_of_little_text_is_the_planner_s():
    pretrain = load("best-little-text").pretrain
    request = PlanRequest(
        gpu=gpus()["a100-40gb"], usd_per_hour=1.48, text_bytes=200e6, budget_usd=50.0
    )
    plan = make_plan(request)
    assert (pretrain.num_steps, pretrain.tokens_per_step) == (plan.num_steps, plan.tokens_per_step)
    assert pretrain.optimizer.weight_decay == plan.weight_decay
    assert pretrain.optimizer.muon_learning_rate == plan.peak_learning_rate
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for name in sizes:
        assert getattr(pretrain.model, name) == getattr(plan.model, name)
    needs = needs_of(load("best-little-text"))
    assert plan.cost.usd * needs.trainings < 50
