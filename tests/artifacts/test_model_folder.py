"""Untrusted model folders are checked before anything in them is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from teenytinyllama.artifacts.model_folder import check_model_folder, read_safetensors_header
from teenytinyllama.errors import UserError


def folder(path: Path) -> Path:
    save_file({"a": torch.zeros(2, 3), "b": torch.ones(4)}, path / "model.safetensors")
    (path / "config.json").write_text('{"model_type": "llama"}')
    return path


def test_a_plain_folder_is_accepted(tmp_path: Path) -> None:
    check_model_folder(folder(tmp_path))
    header = read_safetensors_header(tmp_path / "model.safetensors")
    assert header["a"]["shape"] == [2, 3]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("config.json", '{"a": {"auto_map": {}}}', "model-unsafe"),
        ("config.json", "{", "model-damaged"),
        ("config.json", "[]", "model-damaged"),
        ("config.json", "[" * 100_000, "model-damaged"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../x"}}', "model-unsafe"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "x"}}', "model-damaged"),
        ("model.safetensors.index.json", "{}", "model-damaged"),
    ],
)
def test_unsafe_and_damaged_json_is_an_error(
    tmp_path: Path, name: str, content: str, code: str
) -> None:
    (folder(tmp_path) / name).write_text(content)
    with pytest.raises(UserError) as error:
        check_model_folder(tmp_path)
    assert error.value.code == code
    assert name in error.value.where


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_as_weights_are_an_error(tmp_path: Path, dtype: torch.dtype) -> None:
    """Masks may be such numbers, and the weights of a model that says it is quantized."""
    (folder(tmp_path) / "config.json").write_text('{"model_type": "gpt2"}')
    ones = torch.ones(2, dtype=dtype)
    save_file({"attn.bias": ones, "b": torch.ones(4)}, tmp_path / "model.safetensors")
    check_model_folder(tmp_path)
    save_file({"a.weight": ones, "b": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"numbers as a\.weight, expected floats"):
        check_model_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    check_model_folder(tmp_path)


def test_pickled_weights_alone_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError) as error:
        check_model_folder(tmp_path)
    assert error.value.code == "model-unsafe"


@pytest.mark.parametrize(
    "change",
    [{"shape": [2, 4]}, {"dtype": "F99"}, {"data_offsets": [0, 10_000]}, {"shape": [-2, -3]}],
)
def test_a_header_that_does_not_match_its_data_is_an_error(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = folder(tmp_path) / "model.safetensors"
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **change}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with pytest.raises(UserError) as error:
        read_safetensors_header(path)
    assert error.value.code == "model-damaged"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"max_position_embeddings": 10**12}, "at most 16,777,216 are possible"),
        ({"text_config": {"n_positions": 2**40}}, "at most 16,777,216 are possible"),
        ({"num_hidden_layers": 10**7}, "at most 2 fit the weights"),
        ({"hidden_size": 4, "vocab_size": 10**9}, "at most 80 fit the weights"),
        ({"hidden_size": 10**9}, "fit the weights"),
        ({"sliding_window": 10**30}, "are possible|fit the weights"),
        ({"num_labels": 10**9}, "at most 131,072 are possible"),
        ({"num_attention_heads": 0}, "= 0, expected 1 or more"),
        ({"num_key_value_heads": 0}, "= 0, expected 1 or more"),
        ({"head_dim": 0}, "= 0, expected 1 or more"),
        ({"vocab_size": -1}, "= -1, expected 1 or more"),
        ({"max_position_embeddings": -5}, "= -5, expected 1 or more"),
    ],
)
def test_a_configuration_larger_than_its_weights_is_an_error(
    tmp_path: Path, config: dict[str, object], said: str
) -> None:
    (folder(tmp_path) / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"config.json - cannot be loaded: it asks for .*({said})"):
        check_model_folder(tmp_path)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("value", ["someone/attention", {"text_config": "someone/attention@main"}])
def test_code_of_the_hub_is_refused(tmp_path: Path, name: str, value: object) -> None:
    config = {"text_config": {name: value}}
    (folder(tmp_path) / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"model-unsafe.*names code of the Hub as its {name}"):
        check_model_folder(tmp_path)


def test_a_pipe_in_the_folder_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(folder(tmp_path) / "tokenizer.json")
    with pytest.raises(UserError, match="is a pipe"):
        check_model_folder(tmp_path)
