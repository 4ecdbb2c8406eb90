"""What quantize would fail on, before anything is trained."""

from __future__ import annotations

import json

import gguf
import pytest
from support.recipe_checks import problems

from teenytinyllama.stages.quantize import checks
from teenytinyllama.stages.quantize.gguf_writer import QuantType


def recipe(formats: str, hidden: int = 64, inner: int = 96, more: str = "") -> str:
    sizes = f"hidden_size = {hidden}, intermediate_size = {inner}, num_attention_heads = 4"
    return (
        f"[pretrain]\nnum_steps = 500\nmodel = {{ {sizes} }}\n{more}"
        f"schedule = {{ warmup_steps = 2 }}\n[quantize]\nformats = {formats}\n"
    )


@pytest.fixture(autouse=True)
def _all_libraries(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: name)


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_k_m", "awq"])
def test_width_that_a_format_cannot_pack(name, tmp_path):
    found = problems(tmp_path, recipe(f'["f16", "{name}"]', hidden=80), "quantize")
    line = found["quantize-shape"]
    assert "pretrain.model.hidden_size = 80" in line
    assert f"{name} packs 32 weights" in line
    assert (
        """fix: --set 'quantize.formats=["f16"]', or pretrain.model.hidden_size = 64 or 96"""
        in line
    )
    assert problems(tmp_path, recipe(f'["{name}"]', inner=100), "quantize").keys() == {
        "quantize-shape"
    }
    assert problems(tmp_path, recipe(f'["{name}"]'), "quantize") == {}
    assert problems(tmp_path, recipe('["f16"]', hidden=80), "quantize") == {}


def test_blocks_are_those_of_the_library():
    sizes = gguf.GGML_QUANT_SIZES
    for kind, name in ((QuantType.Q8_0, "q8_0"), (QuantType.Q4_0, "q4_0"), (QuantType.F16, "f16")):
        assert sizes[kind][0] == checks.BLOCK_SIZES[name]
    assert sizes[QuantType.Q5_0][0] == checks.BLOCK_SIZES["q4_k_m"]


def test_widths_of_the_model_that_training_starts_from(tmp_path):
    (tmp_path / "base").mkdir()
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({"hidden_size": 72, "intermediate_size": 96}))
    text = recipe('["q8_0"]', more=f'start_from = "{tmp_path}/base"\n')
    assert "start_from: hidden_size = 72" in problems(tmp_path, text, "quantize")["quantize-shape"]
    config.write_text("{")
    assert problems(tmp_path, text, "quantize") == {}


def test_vocabulary_and_libraries(tmp_path, monkeypatch):
    text = '[tokenizer]\nmodel = "unigram"\n' + recipe('["q8_0"]')
    assert problems(tmp_path, text, "quantize").keys() == {"tokenizer-not-bpe"}
    assert problems(tmp_path, text.replace("q8_0", "awq"), "quantize") == {}
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name != "gguf" else name)
    line = problems(tmp_path, recipe('["q4_k_m"]'), "quantize")["extra-missing"]
    assert "teenytinyllama[llama-cpp]" in line
