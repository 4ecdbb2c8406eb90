from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file
from support.ranks import in_ranks
from support.tiny_training import FixedMeter
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.settings.post_training import FinetuneSettings
from teenytinyllama.settings.training import LoraSettings
from teenytinyllama.stages.finetune import classification_task
from teenytinyllama.stages.finetune import stage as finetune
from teenytinyllama.stages.finetune.labelled_dataset import Example, LabelledData, read_labelled
from teenytinyllama.stages.interface import StageContext, StageResult

SETTINGS = FinetuneSettings(
    tasks=(LabelledSet(name="sentimento", kind="storybook", num_items=64, seed=7),),
    num_epochs=2,
    learning_rate=3e-3,
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def done(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, StageResult]:
    folder = tmp_path_factory.mktemp("finetune")
    result = finetune.run(
        settings=SETTINGS,
        context=stage_context,
        out_dir=folder,
        tokenizer_dir=small_tokenizer_dir,
        pretrain_dir=small_base_dir,
    )
    return folder, result


def test_metrics_include_the_baselines(done: tuple[Path, StageResult]) -> None:
    found = done[1].metrics["tasks"]["sentimento"]
    assert found["majority_accuracy"] == 0.5
    assert found["num_items"] == 200
    assert [one["seed"] for one in found["seeds"]] == [0, 1]
    assert found["accuracy"] == pytest.approx(sum(o["accuracy"] for o in found["seeds"]) / 2)
    assert all(len(one["validation_accuracy"]) == 2 for one in found["seeds"])
    assert "bag_of_words_accuracy" in found
    counts = done[1].counts["tasks"]["sentimento"]
    assert (counts["examples_train"], counts["texts_truncated"]) == (64, 0)


def test_means_over_seeds_and_the_published_seed_are_consistent(
    done: tuple[Path, StageResult],
) -> None:
    found = done[1].metrics["tasks"]["sentimento"]
    mean = found["accuracy"]
    assert found["standard_error"] == pytest.approx((mean * (1 - mean) / 200) ** 0.5)
    first, second = (one["confusion"] for one in found["seeds"])
    assert found["confusion"] == [
        [first[row][column] + second[row][column] for column in (0, 1)] for row in (0, 1)
    ]
    right = sum(found["confusion"][label][label] for label in (0, 1))
    assert right / (2 * 200) == pytest.approx(mean)
    by_seed = {one["seed"]: one for one in found["seeds"]}
    published = found["published"]
    assert published == {
        name: by_seed[published["seed"]][name]
        for name in ("seed", "best_epoch", "accuracy", "macro_f1")
    }


def test_it_leaves_a_plain_classifier_and_no_checkpoint(
    done: tuple[Path, StageResult],
) -> None:
    task_dir = done[0] / "sentimento"
    model = AutoModelForSequenceClassification.from_pretrained(task_dir / "final")
    assert model.config.id2label == {0: "negativo", 1: "positivo"}
    assert (
        model.config.pad_token_id == AutoTokenizer.from_pretrained(task_dir / "final").pad_token_id
    )
    assert not list(done[0].glob("**/step-*"))
    assert not list(done[0].glob("**/.best"))


def test_the_chosen_epoch_is_the_best_on_validation(done: tuple[Path, StageResult]) -> None:
    for one in done[1].metrics["tasks"]["sentimento"]["seeds"]:
        scores = one["validation_accuracy"]
        assert one["best_epoch"] == 1 + scores.index(max(scores))
        assert len(one["validation_macro_f1"]) == 2


@contextmanager
def killed_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, a stage dies when it makes its `call`-th batch."""
    calls = 0
    pad = classification_task.pad

    def dying(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise SystemExit("killed")
        return pad(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(classification_task, "pad", dying)
        yield


def starter(
    context: StageContext, tokenizer_dir: Path, base_dir: Path, changes: dict[str, Any]
) -> Callable[[Path], StageResult]:
    """The stage with SETTINGS and `changes`, to be called with a folder, again after a kill."""

    def run(folder: Path) -> StageResult:
        return finetune.run(
            settings=SETTINGS.model_copy(update=changes),
            context=context,
            out_dir=folder,
            tokenizer_dir=tokenizer_dir,
            pretrain_dir=base_dir,
        )

    return run


def test_a_killed_run_ends_in_the_same_bytes(
    done: tuple[Path, StageResult],
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = starter(stage_context, small_tokenizer_dir, small_base_dir, {})
    # In the second epoch of the first seed, and in the second seed.
    for calls in (10, 12):
        with killed_at(calls, monkeypatch):
            run(tmp_path)
    run(tmp_path)
    files = ["sentimento/final/model.safetensors", "sentimento/final/config.json"]
    for name in files:
        assert sha256_file(tmp_path / name) == sha256_file(done[0] / name), name


@pytest.mark.parametrize("variant", ["plain", "lora", "tied"])
def test_killed_with_language_loss_ends_in_the_same_bytes(
    variant: str,
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variant == "tied":
        base = AutoModelForCausalLM.from_pretrained(
            small_base_dir / "final", tie_word_embeddings=True
        )
        shutil.copytree(small_base_dir, tmp_path / "tied")
        base.save_pretrained(tmp_path / "tied" / "final")
        small_base_dir = tmp_path / "tied"
    changes = {
        "seeds": (0,),
        "language_model_weight": 0.5,
        "random_twin": True,
        "lora": LoraSettings(rank=4) if variant == "lora" else None,
    }

    run = starter(stage_context, small_tokenizer_dir, small_base_dir, changes)
    metrics = run(tmp_path / "whole").metrics["tasks"]["sentimento"]
    assert "random-init_accuracy" in metrics
    with killed_at(10, monkeypatch):
        run(tmp_path / "killed")
    run(tmp_path / "killed")
    final = "sentimento/final/model.safetensors"
    assert sha256_file(tmp_path / "killed" / final) == sha256_file(tmp_path / "whole" / final)
    names = set(load_file(tmp_path / "whole" / final))
    assert {"score.weight", "model.embed_tokens.weight"} <= names
    assert not [name for name in names if "lm_head" in name or "lora" in name]


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_killed_with_mean_pooling_ends_in_the_same_bytes(
    lora: LoraSettings | None,
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes: dict[str, Any] = {"seeds": (0,), "pooling": "mean", "random_twin": True, "lora": lora}

    run = starter(stage_context, small_tokenizer_dir, small_base_dir, changes)
    run(tmp_path / "whole")
    with killed_at(10, monkeypatch):
        run(tmp_path / "killed")
    run(tmp_path / "killed")
    final = tmp_path / "whole" / "sentimento" / "final"
    killed = tmp_path / "killed" / "sentimento" / "final" / "model.safetensors"
    assert sha256_file(killed) == sha256_file(final / "model.safetensors")
    model, loading_info = AutoModelForSequenceClassification.from_pretrained(
        final, output_loading_info=True
    )
    assert not any(
        loading_info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )
    base = AutoModelForCausalLM.from_pretrained(small_base_dir / "final")
    assert len(model.model.layers) == len(base.model.layers) + 1


def test_mean_pooling_and_language_loss_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="set one of the two"):
        FinetuneSettings(tasks=SETTINGS.tasks, pooling="mean", language_model_weight=0.5)


def test_shared_texts_and_missing_labels_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    known, new, other = (Example((text,), label) for label, text in enumerate(("a", "b", "c")))
    data = LabelledData(["um", "dois", "três"])
    data.splits = {
        "train": [known, known, new, other],
        "validation": [known, new, other],
        "test": [known, known, Example(("d",), 1)],
    }
    counts = finetune._count_examples("x", data)
    assert capsys.readouterr().err.splitlines() == [
        "x: 3 validation texts are also in the train split",
        "x: 2 test texts are also in the train split",
        "x: 2 test texts are also in the validation split",
        "x: the test split has no example of três",
    ]
    assert counts["missing_labels"] == {"validation": [], "test": ["três"]}
    assert (counts["examples_train"], counts["validation_texts_in_train"]) == (4, 3)


def test_an_error_in_the_last_set_leaves_the_folder_empty(
    small_base_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "set" / "train.csv").write_text('label,text\n0,"abc\n1,def\n0,ghi\n')
    last = LabelledSet(name="b", path=str(tmp_path / "set"))
    run = starter(
        stage_context, small_tokenizer_dir, small_base_dir, {"tasks": (*SETTINGS.tasks, last)}
    )
    with pytest.raises(UserError, match=r"train\.csv:2 - unmatched quotes"):
        run(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_two_tasks_with_one_name_are_refused(
    small_base_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="2 tasks have this name"):
        finetune.run(
            settings=SETTINGS.model_copy(update={"tasks": SETTINGS.tasks * 2}),
            context=stage_context,
            out_dir=tmp_path,
            tokenizer_dir=small_tokenizer_dir,
            pretrain_dir=small_base_dir,
        )


def test_lora_leaves_a_plain_classifier_and_cut_texts_are_counted(
    small_base_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(
        update={"lora": LoraSettings(rank=2), "seeds": (0,), "num_epochs": 1, "max_length": 24}
    )
    result = finetune.run(
        settings=settings,
        context=stage_context,
        out_dir=tmp_path,
        tokenizer_dir=small_tokenizer_dir,
        pretrain_dir=small_base_dir,
    )
    final = tmp_path / "sentimento" / "final"
    model = AutoModelForSequenceClassification.from_pretrained(final)
    base = AutoModelForCausalLM.from_pretrained(small_base_dir / "final")
    assert not [name for name in model.state_dict() if "lora" in name]
    first = "model.layers.0.self_attn.q_proj.weight"
    assert not model.state_dict()[first].equal(base.state_dict()[first])
    frozen = "model.embed_tokens.weight"
    assert model.state_dict()[frozen].equal(base.state_dict()[frozen])
    encoder = load_tokenizer(small_tokenizer_dir)
    data = read_labelled(settings.tasks[0])
    texts = [one.texts[0] for rows in data.splits.values() for one in rows]
    num_cut = sum(len(encoder.encode(text)) + 2 > 24 for text in texts)
    assert 0 < num_cut < len(texts)
    assert result.counts["tasks"]["sentimento"]["texts_truncated"] == num_cut


def test_two_processes_train_what_one_trains(
    done: tuple[Path, StageResult],
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
) -> None:
    def work(rank: int) -> StageResult:
        return finetune.run(
            settings=SETTINGS,
            context=replace(stage_context, meter=FixedMeter(), processes=ProcessGroup()),
            out_dir=tmp_path,
            tokenizer_dir=small_tokenizer_dir,
            pretrain_dir=small_base_dir,
        )

    first, second = in_ranks(2, work)
    assert first == second
    assert first.counts == done[1].counts
    found, alone = (one.metrics["tasks"]["sentimento"] for one in (first, done[1]))
    # Sums in another order: an example near the border may fall on its other side.
    assert found["accuracy"] == pytest.approx(alone["accuracy"], abs=0.02)
    # Both folders have the same files, and no checkpoint is left in either.
    names = (
        {path.relative_to(folder) for path in folder.rglob("*")} for folder in (tmp_path, done[0])
    )
    assert next(names) == next(names)
    again, _ = in_ranks(2, work)
    assert again == first
