"""The quantize stage: what each file loses, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from support.quantize_stage import quantize_run
from support.small_run import make_run

from teenytinyllama.errors import UserError
from teenytinyllama.stages.interface import StageResult
from teenytinyllama.stages.quantize import k_quants, stage


def test_loss_of_each_file_is_measured(quantized: tuple[Path, StageResult]) -> None:
    out_dir, result = quantized
    assert sorted(path.name for path in out_dir.iterdir()) == [
        "model-f16.gguf",
        "model-q4_0.gguf",
        "model-q8_0.gguf",
    ]
    metrics = result.metrics
    for name in ("f16", "q8_0", "q4_0"):
        size = (out_dir / f"model-{name}.gguf").stat().st_size
        assert metrics[name]["size_bytes"] == size
    assert metrics["f16"]["same_best_token"] >= 0.999
    assert metrics["f16"]["max_logit_difference"] < 1e-2
    assert metrics["q8_0"]["max_logit_difference"] < metrics["q4_0"]["max_logit_difference"]
    assert abs(metrics["f16"]["sample_bits_per_byte_increase"]) < 1e-4
    assert result.counts["documents_compared"] == 6


def test_equal_input_gives_equal_bytes(
    quantized: tuple[Path, StageResult], run_dir: Path, tmp_path: Path
) -> None:
    quantize_run(run_dir, tmp_path, formats=("q8_0",))
    again = (tmp_path / "model-q8_0.gguf").read_bytes()
    assert again == (quantized[0] / "model-q8_0.gguf").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"head_dim": 32}],
    ids=["tied", "multi-head", "wide-heads"],
)
def test_other_model_shapes_load_back_equal(tmp_path: Path, changes: dict) -> None:
    run_dir = make_run(tmp_path, **changes)
    result = quantize_run(run_dir, tmp_path / "quantized", formats=("f16",))
    assert result.metrics["f16"]["max_logit_difference"] < 1e-2


def test_file_that_loses_too_much_is_refused_and_removed(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "compare_scores", lambda *_: {"sample_bits_per_byte_increase": 0.04})
    with pytest.raises(UserError) as error:
        quantize_run(run_dir, tmp_path, formats=("q4_0",), max_bits_per_byte_increase=0.03)
    assert (error.value.code, error.value.where) == ("quantize-loss", "model-q4_0.gguf")
    assert error.value.what == "bits per byte grow by 4.00%, the recipe allows 3.00%"
    assert list(tmp_path.iterdir()) == []


def test_width_that_does_not_pack_is_an_error(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, intermediate_size=100)
    with pytest.raises(UserError, match="rows have 100 values, Q8_0 packs 32 at a time"):
        quantize_run(run_dir, tmp_path / "quantized", formats=("q8_0",))


def test_tokenizer_of_another_model_is_refused(run_dir: Path, tmp_path: Path) -> None:
    for name in ("corpus", "tokenizer", "pretrain"):
        shutil.copytree(run_dir / name, tmp_path / name)
    path = tmp_path / "pretrain" / "final" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vocab_size": 300}))
    with pytest.raises(UserError, match="tokenizer-other-model"):
        quantize_run(tmp_path, tmp_path / "quantized")


def test_missing_library_error_names_the_extra(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    k_quants.load_library.cache_clear()
    for file_format, extra in (("q4_k_m", "llama-cpp"), ("awq", "awq")):
        with pytest.raises(UserError, match=rf"teenytinyllama\[{extra}\]"):
            quantize_run(run_dir, tmp_path, formats=(file_format,))
