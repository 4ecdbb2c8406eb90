"""The pilots of `ttl plan --calibrate`, with a law in the place of a training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from teenytinyllama.artifacts.manifest import Manifest, write_json
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import num_parameters
from teenytinyllama.planning import scaling_runs
from teenytinyllama.planning.scaling_laws import Law, law
from teenytinyllama.settings.recipe import Recipe

BYTES_PER_TOKEN, VOCAB_SIZE = 4.0, 1024
BASE = law("besiroglu")
TRUTH = Law("true", 1.5, 40.0, 900.0, BASE.alpha, BASE.beta)
RECIPE = (
    'name = "small"\n[corpus]\nsources = [{kind = "storybook"}]\n[tokenizer]\n[pack]\n[pretrain]\n'
)


def manifest(
    folder: Path, stage: str, counts: dict[str, object], metrics: dict[str, object]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = Manifest(
        stage=stage, version="1", fingerprint=stage, recipe={}, inputs={}, outputs={},
        counts=counts, metrics=metrics, started_at="2026-11-23T00:00:00Z",
        duration_s=1.0, energy_kwh={}, emissions_kg=0.0, versions={},
    )  # fmt: skip
    write_json(folder / "manifest.json", made.model_dump(mode="json"))


class FakePipeline:
    """Leaves what the stages would: `tokens_train` different tokens, losses by the true law."""

    def __init__(self) -> None:
        self.tokens_train = 2_000_000
        self.trained: list[str] = []

    def run_stages(self, recipe: Recipe, run_dir: Path, names: Sequence[str]) -> None:
        if list(names) != ["pretrain"]:
            all_text = {"all": {"bytes_per_token": BYTES_PER_TOKEN}}
            manifest(run_dir / "tokenizer", "tokenizer", {"vocab_size": VOCAB_SIZE}, all_text)
            manifest(run_dir / "pack", "pack", {"tokens_train": self.tokens_train}, {})
            return
        assert (run_dir / "pack" / "manifest.json").is_file()  # through the link
        settings = recipe.pretrain
        assert settings is not None
        self.trained.append(recipe.name)
        parameters = num_parameters(settings.model, VOCAB_SIZE)
        tokens = settings.num_steps * settings.tokens_per_step
        bits = TRUTH.loss(parameters, tokens) / math.log(2) / BYTES_PER_TOKEN
        counts: dict[str, object] = {"parameters": parameters, "tokens": tokens}
        manifest(run_dir / "pretrain", "pretrain", counts, {})
        rows = [{"step": 1, "heldout_bpb": 9.0}, {"step": 2, "heldout_bpb": bits}, {"step": 2}]
        (run_dir / "pretrain" / "metrics.jsonl").write_text(
            "\n".join(json.dumps(row) for row in rows)
        )


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scaling_runs, "_speed", lambda: ("cpu", 1e10))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def test_pilots_find_the_law_they_follow(recipe: Path, pipeline: FakePipeline) -> None:
    found = scaling_runs.calibrated(
        recipe, minutes=5, law="besiroglu", run_stages=pipeline.run_stages
    )
    fitted = found["fitted"]
    assert len(pipeline.trained) == len(set(pipeline.trained)) == 6
    assert (fitted.law.e, fitted.law.a, fitted.law.b) == pytest.approx((1.5, 40.0, 900.0), rel=1e-4)
    assert (found["unique_tokens"], found["vocab_size"]) == (2e6, VOCAB_SIZE)
    assert fitted.predict(1e7, 1e8, 1e8)[0] == pytest.approx(TRUTH.loss(1e7, 1e8), abs=1e-3)


def test_no_pilot_reads_a_token_twice_and_more_time_means_longer_ones(
    recipe: Path, pipeline: FakePipeline
) -> None:
    scaling_runs.calibrated(recipe, minutes=1e6, law="besiroglu", run_stages=pipeline.run_stages)
    steps = int(Path("runs/small/pilots/steps.txt").read_text())
    assert (
        steps * max(scaling_runs.PILOT_LENGTHS) * scaling_runs.PILOT_TOKENS_PER_STEP
        <= pipeline.tokens_train
    )
    assert steps > 400


def test_the_same_command_later_runs_the_same_pilots(
    recipe: Path, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling_runs.calibrated(recipe, minutes=5, law="besiroglu", run_stages=pipeline.run_stages)
    first = list(pipeline.trained)
    monkeypatch.setattr(scaling_runs, "_speed", lambda: pytest.fail("measured again"))
    scaling_runs.calibrated(recipe, minutes=50, law="besiroglu", run_stages=pipeline.run_stages)
    assert pipeline.trained == first * 2  # the runner skips what is done


def test_too_little_text_is_said_before_any_training(
    recipe: Path, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.tokens_train = 10_000
    with pytest.raises(UserError) as error:
        scaling_runs.calibrated(recipe, minutes=5, law="besiroglu", run_stages=pipeline.run_stages)
    assert error.value.code == "pilots-text"
    assert pipeline.trained == []


def test_a_recipe_without_pretraining_has_nothing_to_calibrate(
    recipe: Path, pipeline: FakePipeline
) -> None:
    recipe.write_text('name = "small"\n[corpus]\nsources = [{kind = "storybook"}]\n')
    with pytest.raises(UserError) as error:
        scaling_runs.calibrated(recipe, minutes=5, law="besiroglu", run_stages=pipeline.run_stages)
    assert error.value.code == "stage-not-in-recipe"
