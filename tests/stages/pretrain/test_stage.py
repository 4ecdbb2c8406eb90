"""The pretrain stage on a small corpus: what it leaves, and what it refuses before it starts."""

import json
import re
import shutil
from contextlib import suppress

import pytest
import torch
from pydantic import ValidationError
from support.token_stages import pack_corpus, write_corpus
from transformers import AutoModelForCausalLM

from teenytinyllama.artifacts.tokens import TokenWriter, open_tokens, read_index, write_index
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.settings.data_preparation import PackSettings
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.pack import stage as pack
from teenytinyllama.stages.pretrain import stage as pretrain

SIZES = ModelSettings(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=64,
)


def settings(**changes):
    plan = {"sequence_length": 32, "tokens_per_step": 128, "num_steps": 4, "model": SIZES}
    return PretrainSettings(**{**plan, **changes})


@pytest.fixture(scope="module")
def pack_dir(small_corpus_dir, small_tokenizer_dir, stage_context, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    pack.run(
        settings=PackSettings(),
        context=stage_context,
        out_dir=folder,
        corpus_dir=small_corpus_dir,
        tokenizer_dir=small_tokenizer_dir,
    )
    return folder


@pytest.fixture
def run(small_tokenizer_dir, pack_dir, stage_context, tmp_path):
    def run(tokens=pack_dir, **changes):
        return pretrain.run(
            settings=settings(**changes),
            context=stage_context,
            out_dir=tmp_path / "pretrain",
            tokenizer_dir=small_tokenizer_dir,
            pack_dir=tokens,
        )

    return run


def test_it_leaves_a_model_its_log_and_its_samples(run, tmp_path):
    result = run(log_every_steps=2)
    folder = tmp_path / "pretrain"
    assert result.counts["steps"] == 4
    assert result.counts["tokens"] == 512
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[-1]["heldout_bpb"] > 0
    assert (folder / "samples.jsonl").is_file()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / "final").iterdir()
    }


def test_a_model_with_qk_norm_is_a_plain_qwen3(run, tmp_path):
    sizes = SIZES.model_copy(update={"kind": "qwen3"})
    result = run(model=sizes)
    assert result.metrics["model_class"] == "Qwen3ForCausalLM"
    final = AutoModelForCausalLM.from_pretrained(tmp_path / "pretrain" / "final")
    assert type(final).__name__ == "Qwen3ForCausalLM"
    gain = final.model.layers[1].self_attn.q_norm.weight
    assert gain.shape == (16,)
    assert not torch.equal(gain, torch.ones(16))  # it was trained


LEVERS = {
    "num_steps": 60,
    "shuffle_documents": True,
    "mask_inputs": 0.1,
    "second_token_weight": 0.2,
    "model": SIZES.model_copy(update={"kind": "qwen3"}),
    "dropout": {"residual": 0.1, "mlp": 0.1, "embedding": 0.1, "attention": 0.1, "layers": 0.1},
    "averaging": {"ema_decay": 0.9, "last_epochs": 2},
    "optimizer": {"kind": "muon", "weight_decay": 1.0, "weight_decay_schedule": "learning-rate"},
    "tokens_per_step": 1024,
}


def test_every_lever_on_and_stopped_ends_in_the_same_bytes(
    run, small_tokenizer_dir, pack_dir, stage_context, tmp_path, monkeypatch
):
    plan = {**LEVERS, "checkpoints": {"every_steps": 7, "keep_weights": "best"}}
    result = run(**plan)
    assert result.metrics["epochs"] > 1
    assert len(result.metrics["heldout_bpb_of_weights"]) == 4

    def run_to(num_steps):
        after_step = pretrain.TrainLoop._after_step

        def stop_there(loop):
            if loop.state.step == num_steps:
                loop.stop_signal = "SIGTERM"
            after_step(loop)

        with monkeypatch.context() as patch, suppress(Interrupted):
            patch.setattr(pretrain.TrainLoop, "_after_step", stop_there)
            pretrain.run(
                settings=settings(**plan),
                context=stage_context,
                out_dir=tmp_path / "stopped",
                tokenizer_dir=small_tokenizer_dir,
                pack_dir=pack_dir,
            )

    for num_steps in (10, 33, 10_000):
        run_to(num_steps)
    for name in ("final/model.safetensors", "step-0000060/optimizer.safetensors"):
        whole, stopped = (tmp_path / folder / name for folder in ("pretrain", "stopped"))
        assert stopped.read_bytes() == whole.read_bytes()


PHASES = {
    "num_tokens": 5 * 128,
    "epochs": {"b": 2.0},
    "phases": (
        {"share": 0.6, "weights": {"a": 1.0}},
        {"share": 0.4, "weights": {"b": 1.0}},
    ),
}


@pytest.fixture(scope="module")
def phases_dir(small_tokenizer_dir, stage_context, tmp_path_factory):
    train = [(name, f"{name} raposa {i} na casa") for i in range(80) for name in "ab"]
    corpus_dir = write_corpus(tmp_path_factory.mktemp("corpus"), train, ["Outra."])
    folder = tmp_path_factory.mktemp("phases")
    plan = PackSettings.model_validate(PHASES)
    pack_corpus(corpus_dir, small_tokenizer_dir, folder, stage_context, plan)
    return folder


def test_phases_are_read_in_order_and_a_stopped_training_ends_in_the_same_bytes(
    run, phases_dir, tmp_path, monkeypatch
):
    plan = {
        "num_steps": 5,
        "shuffle_documents": True,
        "decay_in_last_phase": True,
        "schedule": {"warmup_steps": 0},
        "log_every_steps": 1,
        "checkpoints": {"every_steps": 1},
    }
    seen, micro_batch = [], pretrain.PretrainTask.micro_batch

    def note_rows(task, step, rows):
        seen.extend((step, int(row)) for row in rows)
        return micro_batch(task, step, rows)

    monkeypatch.setattr(pretrain.PretrainTask, "micro_batch", note_rows)
    run(phases_dir, **plan)
    whole = (tmp_path / "pretrain/final/model.safetensors").read_bytes()
    rates = [json.loads(line)["lr"] for line in (tmp_path / "pretrain/metrics.jsonl").open()]
    assert len(set(rates[:3])) == 1
    assert rates[3] <= rates[2] > rates[4]
    tokens = open_tokens(phases_dir, "train")
    end = read_index(phases_dir)["splits"]["train"]["phases"][0]["num_tokens"]
    rows_of_first = -(-end // 32)
    read = set(seen)
    assert len({row for _, row in read}) == len(read) == 20  # once each
    assert max(row for _, row in read) < tokens.num_sequences(32)
    assert [step for step, row in sorted(read) if row < rows_of_first] == [0] * 4 + [1] * 4 + [
        2
    ] * 4 + [3] * (rows_of_first * 20 // tokens.num_sequences(32) - 12)

    (tmp_path / "pretrain").rename(tmp_path / "whole")
    after_step = pretrain.TrainLoop._after_step

    def stop(loop):
        if loop.state.step in (1, 4):
            loop.stop_signal = "SIGTERM"
        after_step(loop)

    monkeypatch.setattr(pretrain.TrainLoop, "_after_step", stop)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(phases_dir, **plan)
    run(phases_dir, **plan)
    assert (tmp_path / "pretrain/final/model.safetensors").read_bytes() == whole


def test_a_training_longer_than_its_phases_is_refused(run, pack_dir, phases_dir):
    error = error_of(run, tokens=phases_dir, num_steps=9)
    assert error.code == "phases-too-short"
    assert error.fix.startswith("--set pretrain.num_steps=5")
    assert error_of(run, decay_in_last_phase=True).code == "no-last-phase"


def test_members_teach_the_final_model_and_a_stopped_ensemble_ends_in_the_same_bytes(
    run, small_tokenizer_dir, pack_dir, stage_context, tmp_path, monkeypatch
):
    plan = {"ensemble": {"members": 2, "chained": True}, "checkpoints": {"every_steps": 2}}
    metrics = run(**plan).metrics
    assert len(metrics["heldout_bpb_of_members"]) == 2
    assert metrics["heldout_bpb_of_ensemble"] < sum(metrics["heldout_bpb_of_members"]) / 2
    finals = [tmp_path / "pretrain" / name for name in ("members/0", "members/1", ".")]
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in finals]
    assert len(set(weights)) == 3

    # Stopped in the first member, in the second, and in the student.
    count, after_step = iter(range(100)), pretrain.TrainLoop._after_step

    def stop_there(loop):
        if next(count) in (2, 6, 10):
            loop.stop_signal = "SIGTERM"
        after_step(loop)

    monkeypatch.setattr(pretrain.TrainLoop, "_after_step", stop_there)
    stops = 0
    for _ in range(4):
        try:
            pretrain.run(
                settings=settings(**plan),
                context=stage_context,
                out_dir=tmp_path / "stopped",
                tokenizer_dir=small_tokenizer_dir,
                pack_dir=pack_dir,
            )
        except Interrupted:
            stops += 1
    assert stops == 3
    for folder, expected in zip(("members/0", "members/1", "."), weights, strict=True):
        path = tmp_path / "stopped" / folder / "final" / "model.safetensors"
        assert path.read_bytes() == expected


def test_a_start_is_scored_without_dropout(run, tmp_path):
    run()
    (tmp_path / "pretrain").rename(tmp_path / "first")
    second = run(
        num_steps=1, start_from=str(tmp_path / "first/final"), dropout={"residual": 0.9, "mlp": 0.9}
    )
    last = json.loads((tmp_path / "first/metrics.jsonl").read_text().splitlines()[-1])
    assert second.metrics["heldout_bpb_at_start"] == pytest.approx(last["heldout_bpb"], rel=1e-6)


def test_a_finished_model_teaches_another(run, pack_dir, tmp_path):
    run()
    (tmp_path / "pretrain").rename(tmp_path / "first")
    teacher = str(tmp_path / "first" / "final")
    smaller = SIZES.model_copy(update={"num_hidden_layers": 1})
    plain = run(model=smaller)
    alone = (tmp_path / "pretrain/final/model.safetensors").read_bytes()
    (tmp_path / "pretrain").rename(tmp_path / "second")
    taught = run(model=smaller, ensemble={"teachers": (teacher,)})
    assert taught.counts["parameters"] == plain.counts["parameters"]
    assert (tmp_path / "pretrain/final/model.safetensors").read_bytes() != alone
    last = json.loads((tmp_path / "first/metrics.jsonl").read_text().splitlines()[-1])
    assert taught.metrics["heldout_bpb_of_members"] == [pytest.approx(last["heldout_bpb"])]


def test_teachers_of_other_tokens_or_shorter_rows_are_refused(
    run, small_base_dir, small_bytes_tokenizer_dir, tmp_path
):
    teacher = tmp_path / "teacher"
    shutil.copytree(small_base_dir / "final", teacher)
    ensemble = {"teachers": (str(teacher),)}
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.resize_token_embeddings(model.config.vocab_size + 64)
    model.save_pretrained(teacher)
    error = error_of(run, ensemble=ensemble)
    assert error.code == "teacher-other-tokenizer"
    assert "rows for tokens, the student" in error.what
    for path in small_bytes_tokenizer_dir.glob("*.json"):
        shutil.copy(path, teacher)
    (teacher / "tokenizer.model").unlink(missing_ok=True)
    error = error_of(run, ensemble=ensemble)
    assert "its tokenizer is another one" in error.what
    run()
    short = {
        "sequence_length": 128,
        "model": SIZES.model_copy(update={"max_position_embeddings": 128}),
    }
    final = str(tmp_path / "pretrain" / "final")
    error = error_of(run, ensemble={"teachers": (final,)}, **short)
    assert error.code == "sequence-too-long"
    assert "reads 64 tokens" in error.what


def test_averages_over_more_epochs_than_there_are_are_refused(run):
    plan = {"averaging": {"last_epochs": 9}, "checkpoints": {"keep_weights": "best"}}
    error = error_of(run, **plan)
    assert error.code == "averaging-too-long"
    assert "epochs of" in error.what
    assert "last_epochs=0," in error.fix  # one epoch has nothing to average


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"averaging": {"ema_decay": 0.5}}, 'does nothing with checkpoints.keep_weights = "last"'),
        (
            {"averaging": {"ema_decay": 0.99}, "checkpoints": {"keep_weights": "best"}},
            "averages about 100 steps, the training has 4; at most 0.75",
        ),
        ({"dropout": {"mlp": 1.0}}, "less than 1"),
        ({"averaging": {"last_epochs": 1}}, "last_epochs = 1 is no average"),
        ({"ensemble": {"members": 1}}, "members = 1 is no ensemble"),
        ({"ensemble": {"chained": True}}, "chained = true needs members"),
        (
            {"decay_in_last_phase": True, "schedule": {"kind": "cosine"}},
            'no effect with schedule.kind = "cosine"',
        ),
        ({"mask_inputs": -0.1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, words):
    with pytest.raises(ValidationError, match=re.escape(words)):
        settings(**changes)


def error_of(run, **changes):
    with pytest.raises(UserError) as caught:
        run(**changes)
    return caught.value


def test_tokens_of_another_tokenizer_are_refused(run, tmp_path):
    with TokenWriter(tmp_path, "train", 640) as train, TokenWriter(tmp_path, "heldout", 640) as out:
        train.write([1, 7, 2] * 100)
        out.write([1, 7, 2])
    write_index(tmp_path, 640, "0" * 64, {"train": train.entry, "heldout": out.entry})
    error = error_of(run, tokens=tmp_path)
    assert error.code == "tokens-other-tokenizer"
    assert "packed with tokenizer 000000000000" in error.what
    assert error.fix == "run `ttl pack RECIPE`"


def test_a_flipped_bit_in_the_tokens_is_found(run, pack_dir, tmp_path):
    copy = tmp_path / "tokens"
    copy.mkdir()
    for path in pack_dir.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data = bytearray((copy / "train.bin").read_bytes())
    data[100] ^= 1
    (copy / "train.bin").write_bytes(data)
    error = error_of(run, tokens=copy)
    assert error.code == "tokens-damaged"
    assert error.where.endswith("train.bin")
    assert not (tmp_path / "pretrain").exists()


def test_fewer_tokens_than_one_step_are_refused(run):
    error = error_of(run, tokens_per_step=32 * 1_000_000)
    assert error.code == "too-few-tokens"
    assert "one step needs 1000000" in error.what


def test_flash_attn_that_is_not_installed_is_refused(run):
    error = error_of(run, attention="flash-attn")
    assert error.code == "flash-attn-missing"
    assert "auto" in error.fix


def test_an_unsupported_precision_is_refused_before_reading_data(run, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Chip")
    error = error_of(run, tokens=tmp_path / "not even there")
    assert error.code == "precision-unsupported"
    assert "Old Chip has no bfloat16" in error.what


def test_the_default_seed_is_in_the_recipe():
    assert settings().model_dump()["seed"] == 0
