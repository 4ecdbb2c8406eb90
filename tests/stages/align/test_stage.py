from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.ranks import in_ranks
from support.tiny_training import FixedMeter
from transformers import AutoModelForCausalLM, AutoTokenizer

from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.errors import UserError
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.settings.datasets import Source
from teenytinyllama.settings.post_training import AlignSettings
from teenytinyllama.settings.training import CheckpointSettings, OptimizerSettings, ScheduleSettings
from teenytinyllama.stages.align import sft_task
from teenytinyllama.stages.align import stage as align
from teenytinyllama.stages.align import stage as stage
from teenytinyllama.stages.interface import StageContext, StageResult

SETTINGS = AlignSettings(
    sources=(Source(kind="storybook", num_documents=60, seed=7),),
    num_epochs=2,
    sequence_length=128,
    tokens_per_step=512,
    optimizer=OptimizerSettings(peak_learning_rate=1e-2),
    schedule=ScheduleSettings(kind="linear", warmup_steps=1),
    checkpoints=CheckpointSettings(every_steps=2),
    heldout_fraction=0.2,
    num_questions=4,
    max_answer_tokens=8,
)


@pytest.fixture(scope="module")
def done(
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, StageResult]:
    folder = tmp_path_factory.mktemp("chat")
    result = align.run(
        settings=SETTINGS,
        context=stage_context,
        out_dir=folder,
        tokenizer_dir=small_tokenizer_dir,
        pretrain_dir=small_base_dir,
    )
    return folder, result


def test_it_learns_and_counts_every_conversation(done: tuple[Path, StageResult]) -> None:
    counts, metrics = done[1]
    assert counts["conversations_read"] == 60
    assert counts["conversations_train"] + counts["conversations_heldout"] == 60
    assert metrics["heldout_answer_loss"] < metrics["heldout_answer_loss_before"] - 1
    assert metrics["questions_asked"] == 4
    assert 0 <= metrics["padding_fraction"] < 0.2


def test_the_examples_have_what_the_report_reads(done: tuple[Path, StageResult]) -> None:
    lines = (done[0] / "examples.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert set(first) == {"prompt", "messages", "answer", "expected", "correct", "ended"}
    assert first["prompt"] == first["messages"][-1]["content"]
    alpaca = json.loads((done[0] / "alpaca_eval.json").read_text())
    assert set(alpaca[0]) == {"instruction", "output", "generator"}
    assert len(alpaca) == len(lines) == 4


def test_plain_transformers_loads_it_and_renders_the_same(done: tuple[Path, StageResult]) -> None:
    final = done[0] / "final"
    tokenizer = AutoTokenizer.from_pretrained(final)
    model = AutoModelForCausalLM.from_pretrained(final)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Oi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<s><|user|>Oi</s><|assistant|>"


def test_a_killed_run_ends_in_the_same_bytes(
    done: tuple[Path, StageResult],
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def align_again() -> StageResult:
        return align.run(
            settings=SETTINGS,
            context=stage_context,
            out_dir=tmp_path,
            tokenizer_dir=small_tokenizer_dir,
            pretrain_dir=small_base_dir,
        )

    loads = 0
    lay_out = sft_task.lay_out

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal loads
        loads += args[1] != [] and len(args[1]) > 1
        if loads == 4:
            raise SystemExit("killed")
        return lay_out(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sft_task, "lay_out", dying)
        align_again()
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-0000002"]
    align_again()
    for name in (
        "final/model.safetensors",
        "examples.jsonl",
        "quarantine.jsonl",
        "train.jsonl.zst",
        "heldout.jsonl.zst",
    ):
        assert sha256_file(tmp_path / name) == sha256_file(done[0] / name), name


def test_a_row_longer_than_the_context_is_refused(
    small_base_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"sequence_length": 256})
    with pytest.raises(UserError, match="context is 128 tokens"):
        align.run(
            settings=settings,
            context=stage_context,
            out_dir=tmp_path,
            tokenizer_dir=small_tokenizer_dir,
            pretrain_dir=small_base_dir,
        )


def test_a_tokenizer_other_than_the_models_is_refused(
    small_base_dir: Path, small_tokenizer_dir: Path, stage_context: StageContext, tmp_path: Path
) -> None:
    other = tmp_path / "pretrain" / "final"
    other.mkdir(parents=True)
    for path in (small_base_dir / "final").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(UserError, match="tokenizer-other-model"):
        align.run(
            settings=SETTINGS,
            context=stage_context,
            out_dir=tmp_path,
            tokenizer_dir=small_tokenizer_dir,
            pretrain_dir=tmp_path / "pretrain",
        )


def test_two_processes_train_what_one_trains(
    done: tuple[Path, StageResult],
    small_base_dir: Path,
    small_tokenizer_dir: Path,
    stage_context: StageContext,
    tmp_path: Path,
) -> None:
    def work(rank: int) -> StageResult:
        return align.run(
            settings=SETTINGS,
            context=replace(stage_context, meter=FixedMeter(), processes=ProcessGroup()),
            out_dir=tmp_path,
            tokenizer_dir=small_tokenizer_dir,
            pretrain_dir=small_base_dir,
        )

    for counts, metrics in in_ranks(2, work):
        assert counts == done[1].counts
        assert metrics["num_devices"] == 2
        for name in ("heldout_answer_loss", "heldout_answer_loss_before"):
            # Sums in another order, through several steps.
            assert metrics[name] == pytest.approx(done[1].metrics[name], rel=1e-3)
    names = ({path.name for path in folder.iterdir()} for folder in (tmp_path, done[0]))
    assert next(names) == next(names)
