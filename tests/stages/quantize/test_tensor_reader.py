"""Wrong or damaged weights are errors, and leave no file behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from teenytinyllama.artifacts.vocabulary import read_vocabulary
from teenytinyllama.errors import UserError
from teenytinyllama.stages.quantize.gguf_writer import write_gguf
from teenytinyllama.stages.quantize.tensor_reader import TensorReader


@pytest.fixture
def model_dir(run_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(run_dir / "pretrain" / "final", tmp_path / "model")
    return tmp_path / "model"


def change_tensor(model_dir: Path, name: str, change: object) -> None:
    path = model_dir / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name]) if callable(change) else tensors.pop(name)
    if not callable(change):
        del tensors[name]
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda w: w.index_fill(0, torch.tensor([3]), float("nan")), "weights-not-finite"),
        (lambda w: w.index_fill(0, torch.tensor([3]), float("inf")), "weights-not-finite"),
        (lambda w: w[:-1], "weights-shape"),
        (None, "weights-missing"),
    ],
)
def test_wrong_tensor_is_an_error_and_leaves_no_file(
    run_dir: Path, model_dir: Path, change: object, code: str
) -> None:
    change_tensor(model_dir, NORM, change)
    out_dir = model_dir.parent
    with pytest.raises(UserError) as error:
        write_gguf(
            TensorReader(model_dir),
            read_vocabulary(run_dir / "tokenizer"),
            "f16",
            out_dir / "model.gguf",
            about=gguf.Metadata(name="test"),
        )
    assert error.value.code == code and NORM in error.value.where
    assert not list(out_dir.glob("*.gguf")) and not list(out_dir.glob(".*.part"))


def test_truncated_checkpoint_is_an_error(model_dir: Path) -> None:
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="weights-damaged"):
        TensorReader(model_dir).check()
