"""K-quants: llama.cpp's mixture of types, and the error of its encoder."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support.quantize_stage import quantize_run
from support.small_run import make_run

from teenytinyllama.stages.quantize import k_quants
from teenytinyllama.stages.quantize.tensor_reader import TensorReader


def test_q4_k_m_types_are_those_of_llama_cpp() -> None:
    # 12 layers: the first eighth is layer 0, the last begins at 10; between, every third.
    kinds = [
        k_quants.q4_k_m_type(
            f"model.layers.{n}.mlp.down_proj.weight", (8, 256), 12, is_output=False
        )
        for n in range(12)
    ]
    wide = {n for n, kind in enumerate(kinds) if kind == gguf.GGMLQuantizationType.Q6_K}
    assert wide == {0, 3, 6, 9, 10, 11}
    narrow = k_quants.q4_k_m_type("lm_head.weight", (8, 96), 12, is_output=True)
    assert narrow == gguf.GGMLQuantizationType.Q8_0  # 96 is no multiple of 256


def test_q4_k_m_loads_back_close_to_the_original(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    run_dir = make_run(tmp_path, hidden_size=256, intermediate_size=256)
    result = quantize_run(run_dir, tmp_path / "quantized", formats=("q4_k_m",))
    reader = gguf.GGUFReader(tmp_path / "quantized" / "model-q4_k_m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    original = TensorReader(run_dir / "pretrain" / "final")
    errors = {}
    for kind, name, source in (
        ("Q6_K", "output.weight", "lm_head.weight"),
        ("Q4_K", "blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight"),
    ):
        assert tensors[name].tensor_type.name == kind
        found = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        weight = original.read(source)
        errors[kind] = float(np.sqrt(np.mean((found - weight) ** 2) / np.mean(weight**2)))
    # About 2 and 8 % of a normal weight's size: six and four bits over a range of some sigmas.
    assert 0.005 < errors["Q6_K"] < 0.03 < errors["Q4_K"] < 0.1
    assert result.metrics["q4_k_m"]["size_bytes"] < result.metrics["original"]["size_bytes"] / 5
