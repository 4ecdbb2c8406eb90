"""The pretrain stage on a small corpus: what it leaves, and what it refuses before it starts."""

import json

import pytest
import torch

from teenytinyllama.artifacts.tokens import TokenWriter, write_index
from teenytinyllama.errors import UserError
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
    assert "sdpa" in error.fix


def test_an_unsupported_precision_is_refused_before_reading_data(run, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Chip")
    error = error_of(run, tokens=tmp_path / "not even there")
    assert error.code == "precision-unsupported"
    assert "Old Chip has no bfloat16" in error.what


def test_the_default_seed_is_in_the_recipe():
    assert settings().model_dump()["seed"] == 0
