"""What lies outside a run and is named in its recipe: a change there must be noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teenytinyllama.artifacts.file_hashes import FileHashes
from teenytinyllama.pipeline.fingerprints import external_inputs, stage_fingerprint
from teenytinyllama.pipeline.registry import BY_NAME
from teenytinyllama.settings.datasets import LabelledSet, Task
from teenytinyllama.settings.post_training import EvaluateSettings, FinetuneSettings
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe


def model_folder(root: Path, weights: bytes) -> Path:
    folder = root / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize("stage", ["pretrain", "evaluate", "finetune"])
def test_a_swapped_model_is_noticed(stage, tmp_path):
    def seen(weights: bytes) -> dict[str, str]:
        models = (str(model_folder(tmp_path, weights)), "owner/model-on-the-hub")
        if stage == "pretrain":
            assert external_inputs(PretrainSettings(start_from=models[1]), None, stage) == {}
            start = PretrainSettings(start_from=models[0])
            taught = PretrainSettings(ensemble={"teachers": models})
            found = external_inputs(start, FileHashes(tmp_path), stage)
            return found | external_inputs(taught, FileHashes(tmp_path), stage)
        if stage == "evaluate":
            return external_inputs(EvaluateSettings(models=models), FileHashes(tmp_path), stage)
        tasks = (LabelledSet(name="x", kind="storybook"),)
        return external_inputs(
            FinetuneSettings(tasks=tasks, models=models), FileHashes(tmp_path), stage
        )

    before = seen(b"first")
    assert before != seen(b"other weights")
    assert not any("on-the-hub" in key for key in before)


def test_two_tasks_over_one_folder_and_what_their_files_include(tmp_path):
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "test.jsonl").write_text("{}\n")
    (tmp_path / "shared.yaml").write_text("output_type: multiple_choice\n")
    (tmp_path / "a.yaml").write_text('task: a\n"include": [shared.yaml]\n')
    (tmp_path / "b.yaml").write_text("task: b\n")
    tasks = tuple(
        Task(name=n, path=str(tmp_path / "items"), definition=str(tmp_path / f"{n}.yaml"))
        for n in ("a", "b")
    )

    def seen() -> dict[str, str]:
        return external_inputs(EvaluateSettings(tasks=tasks), FileHashes(tmp_path), "evaluate")

    found = [seen()]
    for name, text in (("a.yaml", "task: a\ninclude: shared.yaml\n"), ("shared.yaml", "# more\n")):
        (tmp_path / name).write_text(text)
        found.append(seen())
    (tmp_path / "b.yaml").write_text("task: [no yaml\n")
    found.append(seen())
    assert len(found[0]) == 2
    assert len({str(prints) for prints in found}) == 4


def test_how_a_model_is_trained_makes_no_other_result():
    """One GPU or eight, compiled or not: unfinished training goes on, and is not refused."""

    def fingerprint(**changes: Any) -> str:
        settings = PretrainSettings(**changes)
        return stage_fingerprint(BY_NAME["pretrain"], Recipe(name="x"), settings, {}, {})

    plain = fingerprint()
    how = {
        "micro_batch": 4,
        "compile": False,
        "activation_checkpointing": True,
        "log_every_steps": 3,
        "trackers": ("wandb",),
    }
    assert set(how) == PretrainSettings.say_how
    for name, value in how.items():
        assert fingerprint(**{name: value}) == plain
    assert fingerprint(seed=1) != plain
    assert fingerprint(precision="fp32") != plain


def test_the_model_s_licence_counts_for_the_stage_that_writes_it():
    def of(stage: str, **report: str) -> str:
        recipe = Recipe(name="x", quantize={}, pretrain={}, report=report)
        return stage_fingerprint(BY_NAME[stage], recipe, getattr(recipe, stage), {}, {})

    assert of("quantize", license="MIT") != of("quantize") == of("quantize", title="A title")
    assert of("pretrain", license="MIT") == of("pretrain")
