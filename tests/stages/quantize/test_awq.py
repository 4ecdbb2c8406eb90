"""AWQ: group sizes, and that the folder loads in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.quantize_stage import quantize_run
from support.small_run import make_run

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.stages.quantize import awq
from teenytinyllama.stages.quantize.tensor_reader import TensorReader


def test_group_size_is_the_largest_that_divides_every_width(tmp_path: Path) -> None:
    sizes = {}
    for hidden, inner in ((64, 96), (64, 128), (256, 384)):
        folder = tmp_path / f"{hidden}-{inner}"
        folder.mkdir()
        run_dir = make_run(folder, hidden_size=hidden, intermediate_size=inner)
        sizes[inner] = awq.group_size_for(TensorReader(run_dir / "pretrain" / "final"))
    assert sizes == {96: 32, 128: 64, 384: 128}


@pytest.mark.slow
def test_folder_loads_in_transformers(run_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("llmcompressor")
    few = {"num_calibration_rows": 4, "calibration_row_tokens": 32}
    result = quantize_run(run_dir, tmp_path, formats=("awq",), **few)
    assert abs(result.metrics["awq"]["sample_bits_per_byte_increase"]) < 0.03
    config = json.loads((tmp_path / "awq" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    assert config["config_groups"]["group_0"]["weights"]["symmetric"] is True
    assert (tmp_path / "awq" / "tokenizer.model").is_file()


def test_calibration_rows_are_full_and_few(run_dir: Path) -> None:
    encoder = load_tokenizer(run_dir / "tokenizer")
    rows = awq.calibration_rows(run_dir / "corpus", encoder, num_rows=5, row_length=32)
    assert [len(row) for row in rows] == [32] * 5
    assert rows[0][0] == 1  # BOS
    [row] = awq.calibration_rows(run_dir / "corpus", encoder, num_rows=1, row_length=10**6)
    assert len(row) < 10**6, "a short corpus gives one short row"
