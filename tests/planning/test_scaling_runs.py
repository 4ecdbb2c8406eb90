"""Scaling runs of `ttl plan --calibrate`, with a law in place of training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.manifests import manifest_of

from teenytinyllama.artifacts.manifest import write_manifest
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning import scaling_runs
from teenytinyllama.planning.scaling_laws import Law, published_law
from teenytinyllama.settings.recipe import Recipe

BYTES_PER_TOKEN, VOCAB_SIZE = 4.0, 1024
BASE = published_law("besiroglu")
TRUTH = Law("true", 1.5, 40.0, 900.0, BASE.alpha, BASE.beta)
RECIPE = (
    'name = "small"\n[corpus]\nsources = [{kind = "storybook"}]\n[tokenizer]\n[pack]\n[pretrain]\n'
)


def manifest(
    folder: Path, stage: str, counts: dict[str, object], metrics: dict[str, object]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, manifest_of(stage, counts=counts, metrics=metrics))


class FakeRunner:
    """Writes what the stages would: `tokens_train` unique tokens, losses by the true law."""

    def __init__(self) -> None:
        self.tokens_train = 2_000_000
        self.trained: list[str] = []

    def __call__(self, recipe: Recipe, run_dir: Path, names: Sequence[str]) -> None:
        if names != ["pretrain"]:
            all_text = {"all": {"bytes_per_token": BYTES_PER_TOKEN}}
            manifest(run_dir / "tokenizer", "tokenizer", {"vocab_size": VOCAB_SIZE}, all_text)
            manifest(run_dir / "pack", "pack", {"tokens_train": self.tokens_train}, {})
            return
        assert (run_dir / "pack" / "manifest.json").is_file()  # by the link
        settings = recipe.pretrain
        assert settings is not None
        self.trained.append(recipe.name)
        parameters = num_parameters(settings.model, VOCAB_SIZE)
        tokens = settings.num_steps * settings.tokens_per_step
        bits = TRUTH.loss(parameters, tokens) / math.log(2) / BYTES_PER_TOKEN
        manifest(run_dir / "pretrain", "pretrain", {"parameters": parameters, "tokens": tokens}, {})
        rows = [{"step": 1, "heldout_bpb": 9.0}, {"step": 2, "heldout_bpb": bits}, {"step": 2}]
        (run_dir / "pretrain" / "metrics.jsonl").write_text(
            "\n".join(json.dumps(row) for row in rows)
        )


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scaling_runs, "_speed", lambda: ("cpu", 1e10))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def fit(recipe: Path, runner: FakeRunner, minutes: float = 5) -> dict[str, Any]:
    return scaling_runs.fit_scaling_law(recipe, minutes=minutes, law="besiroglu", run_stages=runner)


def test_runs_find_the_law_they_follow(recipe: Path, runner: FakeRunner) -> None:
    found = fit(recipe, runner)
    fitted = found["fitted"]
    assert len(runner.trained) == len(set(runner.trained)) == 6
    assert (fitted.law.e, fitted.law.a, fitted.law.b) == pytest.approx((1.5, 40.0, 900.0), rel=1e-4)
    assert (found["unique_tokens"], found["vocab_size"]) == (2e6, VOCAB_SIZE)
    assert fitted.predict(1e7, 1e8, 1e8)[0] == pytest.approx(TRUTH.loss(1e7, 1e8), abs=1e-3)


def test_more_time_means_longer_runs_that_repeat_no_token(recipe: Path, runner: FakeRunner) -> None:
    fit(recipe, runner, minutes=1e6)
    steps = int(Path("runs/small/scaling_runs/steps.txt").read_text())
    longest = steps * max(scaling_runs.STEP_MULTIPLES) * scaling_runs.TOKENS_PER_STEP
    assert longest <= runner.tokens_train
    assert steps > 400


def test_the_same_command_later_does_the_same_runs(
    recipe: Path, runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(recipe, runner)
    first = list(runner.trained)
    monkeypatch.setattr(scaling_runs, "_speed", lambda: pytest.fail("measured again"))
    fit(recipe, runner, minutes=50)
    assert runner.trained == first * 2  # the pipeline runner skips what is done


def test_too_little_text_is_an_error_before_any_training(recipe: Path, runner: FakeRunner) -> None:
    runner.tokens_train = 10_000
    with pytest.raises(UserError) as error:
        fit(recipe, runner)
    assert error.value.code == "scaling-runs-text"
    assert runner.trained == []


def test_a_recipe_without_pretraining_is_an_error(recipe: Path, runner: FakeRunner) -> None:
    recipe.write_text('name = "small"\n[corpus]\nsources = [{kind = "storybook"}]\n')
    with pytest.raises(UserError) as error:
        fit(recipe, runner)
    assert error.value.code == "stage-not-in-recipe"
