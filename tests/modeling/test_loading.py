"""A base model is loaded whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.mapped_files import is_mapped
from transformers import LlamaForCausalLM

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import load_base, load_whole
from teenytinyllama.stages.evaluate import scored_models as evaluated
from teenytinyllama.stages.finetune.classifier_models import other_model, own_model

LAYER = "model.layers.0.mlp.up_proj.weight"


def without(weights):
    del weights[LAYER]


def unknown(weights):
    weights["model.layers.9.mlp.up_proj.weight"] = weights[LAYER].clone()


def reshaped(weights):
    weights[LAYER] = weights[LAYER][:-1].clone()


def damaged(base_dir: Path, folder: Path, change) -> Path:
    shutil.copytree(base_dir, folder)
    path = folder / "final" / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without, f"1 of its weights are not in its files: {LAYER}"),
        (unknown, "1 of its weights are in its files and not in the model: model.layers.9"),
        (reshaped, f"1 of its weights have other shapes than config.json asks for: {LAYER}"),
    ],
)
def test_a_weight_is_never_made_up(change, said, small_base_dir, small_tokenizer_dir, tmp_path):
    folder = damaged(small_base_dir, tmp_path / "pretrain", change)
    with pytest.raises(UserError) as caught:
        load_base(folder, small_tokenizer_dir)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    encoder = load_tokenizer(small_tokenizer_dir)
    with pytest.raises(UserError, match="model-damaged"):
        own_model(folder, small_tokenizer_dir, encoder, 32).make(["a", "b"], 0)


@pytest.mark.parametrize("change", [without, reshaped])
def test_another_model_is_refused_too(change, small_base_dir, tmp_path):
    final = damaged(small_base_dir, tmp_path / "pretrain", change) / "final"
    with pytest.raises(UserError, match="model-damaged"):
        evaluated.load_model("other", final, precision="fp32")
    with pytest.raises(UserError, match="model-damaged"):
        other_model(str(final), 32).make(["a", "b"], 0)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "yarn", "factor": 1e300, "rope_theta": 1}},
        {"rope_parameters": {"rope_type": "nope"}},
        {"dtype": "os.system"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"pad_token_id": 10**12},
        {"hidden_act": "os.system"},
    ],
)
def test_a_configuration_that_its_library_stumbles_over_is_one_line(
    change, small_base_dir, tmp_path
):
    final = Path(shutil.copytree(small_base_dir / "final", tmp_path / "final"))
    config = json.loads((final / "config.json").read_text()) | change
    (final / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="model-damaged") as caught:
        load_whole(LlamaForCausalLM, final, local_files_only=True, dtype="auto")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_another_model_may_bring_what_it_does_not_need(small_base_dir, tmp_path):
    final = damaged(small_base_dir, tmp_path / "pretrain", unknown) / "final"
    assert evaluated.load_model("other", final, precision="fp32").context_length > 0


def test_a_whole_model_has_the_weights_of_its_file(small_base_dir, small_tokenizer_dir):
    model, _ = load_base(small_base_dir, small_tokenizer_dir)
    weights = load_file(small_base_dir / "final" / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    bf16 = load_whole(LlamaForCausalLM, small_base_dir / "final", dtype=torch.bfloat16)
    assert bf16.dtype == torch.bfloat16


def test_weights_are_copied_from_their_file(small_base_dir: Path, tmp_path: Path) -> None:
    final = shutil.copytree(small_base_dir / "final", tmp_path / "final")
    held = load_file(final / "model.safetensors")
    assert is_mapped(final / "model.safetensors")  # what `transformers` alone would leave
    expected = held[LAYER].clone()
    del held
    model = load_whole(LlamaForCausalLM, final, local_files_only=True)
    assert not is_mapped(final / "model.safetensors")
    (final / "model.safetensors").write_bytes(b"")
    assert torch.equal(model.get_parameter(LAYER), expected)
