"""Scores during training: they are in the log and change no weight."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import UserError
from teenytinyllama.pipeline.runner import PipelineRunner
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.post_training import EvaluateSettings
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.settings.training import ModelSettings, ScheduleSettings
from teenytinyllama.stages.evaluate import in_training, suites
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.pack import stage as pack
from teenytinyllama.stages.pretrain import stage as pretrain

TASKS = (Task(name="perguntas", kind="storybook", num_items=40),)
TRAINING = PretrainSettings(
    model=ModelSettings(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    ),
    sequence_length=64,
    tokens_per_step=128,
    num_steps=4,
    evaluate_every_steps=2,
    log_every_steps=2,
    precision="fp32",
    schedule=ScheduleSettings(warmup_steps=1),
)


def train(root: Path, tokens: Path, tokenizer: Path, context: StageContext) -> list[dict]:
    root.mkdir()
    pretrain.run(
        settings=TRAINING, context=context, out_dir=root, tokenizer_dir=tokenizer, pack_dir=tokens
    )
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def test_scores_are_logged_and_change_no_weight(
    small_corpus_dir, small_tokenizer_dir, stage_context, tmp_path
):
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    pack.run(
        settings=PackSettings(),
        context=stage_context,
        out_dir=tokens,
        corpus_dir=small_corpus_dir,
        tokenizer_dir=small_tokenizer_dir,
    )
    settings = EvaluateSettings(tasks=TASKS, items_during_training=10)
    scoring = replace(stage_context, score_model=in_training.scorer(settings, "pt"))
    lines = train(tmp_path / "scored", tokens, small_tokenizer_dir, scoring)
    scored = {line["step"]: line["perguntas_accuracy"] for line in lines if "heldout_bpb" in line}
    assert set(scored) == {2, 4}
    assert all(accuracy * 10 == pytest.approx(round(accuracy * 10)) for accuracy in scored.values())
    plain = train(tmp_path / "plain", tokens, small_tokenizer_dir, stage_context)
    assert not any("perguntas_accuracy" in line for line in plain)
    weights = [
        sha256_file(tmp_path / name / "final" / "model.safetensors") for name in ("scored", "plain")
    ]
    assert weights[0] == weights[1]


def test_items_are_evenly_spaced_over_the_split():
    found = []
    for few in (10, 2):
        [benchmark] = [
            in_training._subsample(one, few)
            for one in suites.load_benchmarks((TASKS[0].model_copy(),), "pt")
        ]
        found.append(benchmark.scored_items)
    whole = suites.load_benchmarks(TASKS, "pt")[0].scored_items
    assert found[0] == whole[::4]
    assert found[1] == [whole[0], whole[20]]


def test_bad_item_is_reported_before_the_first_step(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "a", "choices": ["b", "c"], "answer": 7}\n')
    settings = EvaluateSettings(
        tasks=(Task(name="x", path=str(tmp_path), definition="storybook"),), items_during_training=1
    )
    with pytest.raises(UserError, match=r"test.jsonl:1.*answer out of range: 7"):
        in_training.scorer(settings, "pt")


@pytest.mark.parametrize(("items", "is_scored"), [(0, False), (3, True)])
def test_runner_makes_a_scorer_only_if_items_are_set(items, is_scored, tmp_path):
    settings = EvaluateSettings(tasks=TASKS, items_during_training=items)
    recipe = Recipe(name="x", language="pt", pretrain=TRAINING, evaluate=settings)
    runner = PipelineRunner(recipe, tmp_path, tmp_path / "x.toml")
    assert (runner._score_model() is not None) == is_scored
