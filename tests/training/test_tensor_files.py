import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from teenytinyllama.training.tensor_files import write_tensors

TENSORS = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.ones(3, dtype=torch.bfloat16),
    "step": torch.tensor(3.0),
    "ids": torch.tensor([1, 2], dtype=torch.int64),
    "none": torch.zeros(0, 4),
    "ã": torch.tensor([True, False]),
}


def test_the_bytes_are_those_of_the_library_and_the_hash_is_theirs(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    output = write_tensors(ours, TENSORS)
    save_file(TENSORS, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()
    assert output.bytes == ours.stat().st_size
    assert output.sha256 == hashlib.sha256(ours.read_bytes()).hexdigest()


def test_what_lies_crosswise_in_memory_comes_back(tmp_path):
    crosswise = torch.arange(12.0).reshape(3, 4).T
    write_tensors(tmp_path / "t", {"w": crosswise.requires_grad_()})
    assert torch.equal(load_file(tmp_path / "t")["w"], crosswise)


def test_tied_weights_are_kept_once(tmp_path):
    weight = torch.rand(4, 4)
    write_tensors(tmp_path / "t", {"embed": weight, "head": weight.detach(), "copy": weight + 0})
    assert sorted(load_file(tmp_path / "t")) == ["copy", "embed"]


def test_a_full_disk_is_an_error_of_the_system():
    with pytest.raises(OSError, match="No space left"):
        write_tensors(__import__("pathlib").Path("/dev/full"), TENSORS)
