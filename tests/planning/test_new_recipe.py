"""Recipes written from plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from teenytinyllama.languages import LanguageProfile
from teenytinyllama.planning.new_recipe import render_recipe
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.planner import make_plan
from teenytinyllama.planning.reference_data import gpus
from teenytinyllama.settings.recipe import load_recipe

A100 = gpus()["a100-40gb"]


def asked(**changes: object) -> PlanRequest:
    base = PlanRequest(gpu=A100, usd_per_hour=1.29, text_bytes=5e9, budget_usd=50.0)
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("usd", [1.0, 50.0, 500.0])
def test_the_recipe_of_a_plan_loads_and_matches_it(tmp_path: Path, usd: float) -> None:
    plan = make_plan(asked(budget_usd=usd))
    path = tmp_path / "new.toml"
    path.write_text(render_recipe(plan, name="novo", language="gl", text='a "b"/**/*.txt'))
    recipe = load_recipe(path)
    assert recipe.language == "gl"
    assert recipe.corpus is not None
    assert recipe.corpus.sources[0].path == 'a "b"/**/*.txt'
    assert recipe.pretrain is not None
    assert recipe.pretrain.num_steps == plan.num_steps
    assert recipe.pretrain.model.hidden_size == plan.model.hidden_size
    assert recipe.tokenizer is not None
    assert recipe.tokenizer.vocab_size == plan.vocab_size


@pytest.mark.parametrize(("num_bytes", "heldout"), [(2e5, 0.1), (5e5, 0.04), (5e9, 0.02)])
def test_more_of_a_small_text_is_held_out(num_bytes: float, heldout: float) -> None:
    plan = make_plan(asked(text_bytes=num_bytes))
    assert f"heldout_fraction = {heldout} " in render_recipe(
        plan, name="r", language="gl", text="t"
    )


def test_a_recipe_has_the_learned_settings(tmp_path: Path) -> None:
    learned = LanguageProfile(
        num_documents=60,
        thresholds={"gopher_short_doc": 30.0, "line_punct_ratio": 0.07},
        stop_words=("ati", "ni"),
        letters="abẹọ",
        openings=("Ní ọjọ́ kan",),
        known_fraction=0.5,
    )
    path = tmp_path / "yo.toml"
    path.write_text(
        render_recipe(
            make_plan(asked()), name="yo", language="yo", text="t", chat="c", learned=learned
        )
    )
    recipe = load_recipe(path)
    assert recipe.corpus is not None
    assert recipe.pretrain is not None
    assert recipe.tokenizer is not None
    assert recipe.align is not None
    filters = recipe.corpus.filters
    assert "language" not in filters.families
    assert filters.thresholds == learned.thresholds
    assert filters.stop_words == learned.stop_words
    assert recipe.tokenizer.required_letters == "abẹọ"
    assert recipe.pretrain.sample_prompts == learned.openings
    for number in ("vocab_size", "tokens_per_step", "num_steps", "sequence_length"):
        assert any(row.startswith(number) and "#" in row for row in path.read_text().splitlines())


@pytest.mark.parametrize(("epochs", "decay"), [(4.0, 0.1), (16.0, 1.4)])
def test_many_epochs_come_with_more_weight_decay(
    tmp_path: Path, epochs: float, decay: float
) -> None:
    plan = make_plan(asked(text_bytes=2e8, max_epochs=epochs))
    path = tmp_path / "new.toml"
    path.write_text(render_recipe(plan, name="novo", language="gl", text="t"))
    recipe = load_recipe(path)
    assert recipe.pretrain is not None
    assert recipe.pretrain.optimizer.weight_decay == decay
