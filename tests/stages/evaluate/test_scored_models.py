"""Models are loaded with an identity of their weights, or refused in one line."""

from __future__ import annotations

import shutil

import pytest
from transformers import BertConfig, BertForMaskedLM

from teenytinyllama.errors import UserError
from teenytinyllama.stages.evaluate.scored_models import load_model


def test_identity_changes_with_the_weights(build, model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    first = load_model("base", folder, precision="fp32").identity
    build("llama", seed=1).save_pretrained(folder)
    second = load_model("base", folder, precision="fp32").identity
    assert first["weights"] != second["weights"]
    assert first["tokenizer"] == second["tokenizer"]


@pytest.mark.parametrize("missing", ["weights", "folder", "damaged"])
def test_model_that_cannot_be_loaded_is_a_one_line_error(model_dir, tmp_path, missing):
    final = tmp_path / "final"
    shutil.copytree(model_dir, final)
    if missing == "weights":
        (final / "model.safetensors").unlink()
    elif missing == "damaged":
        data = (final / "model.safetensors").read_bytes()
        (final / "model.safetensors").write_bytes(data[: len(data) // 2])
    else:
        final = tmp_path / "not here at all"
    with pytest.raises(UserError) as caught:
        load_model("base", final, precision="fp32")
    assert "\n" not in str(caught.value)
    assert str(final) in str(caught.value)


def test_encoder_is_refused(model_dir, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertConfig(vocab_size=600, intermediate_size=32, **sizes)
    folder = tmp_path / "bert"
    shutil.copytree(model_dir, folder)
    BertForMaskedLM(bert).save_pretrained(folder)
    with pytest.raises(
        UserError, match=r"model-kind.*type bert does not predict the next"
    ) as caught:
        load_model("x", folder, precision="fp32")
    assert "\n" not in str(caught.value)
