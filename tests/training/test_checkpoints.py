import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.training import checkpoints


def save(folder, step, *, value=1.0, permanent=0):
    return checkpoints.save_checkpoint(
        folder,
        step,
        model={"w": torch.full((4, 4), value)},
        optimizer={"m/w": torch.zeros(4, 4)},
        state={"progress": {"step": step}},
        write_model_files=lambda path: (path / "config.json").write_text("{}"),
        keep=lambda step: bool(permanent) and step % permanent == 0,
    )


def test_loads_what_was_saved(tmp_path):
    save(tmp_path, 7, value=3.5)
    found = checkpoints.load_newest(tmp_path)
    assert found.path.name == "step-0000007"
    assert found.state == {"progress": {"step": 7}}
    assert torch.equal(found.model["w"], torch.full((4, 4), 3.5))
    assert checkpoints.load_newest(tmp_path / "nothing here") is None


def test_keeps_two_rolling_and_all_permanent_checkpoints(tmp_path):
    for step in range(1, 11):
        save(tmp_path, step, permanent=4)
    assert [step for step, _ in checkpoints.list_checkpoints(tmp_path)] == [4, 8, 9, 10]
    checkpoints.finish_removals()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_checkpoint_that_cannot_be_deleted_is_reported(tmp_path, monkeypatch, capsys):
    def stuck(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        checkpoints.shutil, "rmtree", lambda path, **_: path.exists() and stuck(path)
    )
    for step in range(1, 4):
        save(tmp_path, step)
    checkpoints.finish_removals()
    assert ".removed-step-0000001 is no longer needed" in capsys.readouterr().err
    assert [step for step, _ in checkpoints.list_checkpoints(tmp_path)] == [2, 3]


def damage(path, how):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "deleted":
        path.unlink()
    elif how == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "config.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut", "emptied", "deleted", "flipped"])
def test_a_damaged_checkpoint_is_moved_and_the_previous_loaded(tmp_path, name, how, capsys):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    damage(path / name, how)
    assert checkpoints.load_newest(tmp_path).path.name == "step-0000001"
    assert (tmp_path / "damaged-step-0000002").is_dir()
    assert "checkpoint step-0000002 is damaged" in capsys.readouterr().err


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    damage(save(tmp_path, 1) / "model.safetensors", "flipped")
    with pytest.raises(UserError, match="all of its checkpoints are damaged") as caught:
        checkpoints.load_newest(tmp_path)
    assert caught.value.code == "checkpoints-damaged"


def test_refuses_to_save_weights_that_are_not_finite(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="w is not finite at step 2"):
        save(tmp_path, 2, value=float("nan"))
    assert [step for step, _ in checkpoints.list_checkpoints(tmp_path)] == [1]


def test_a_folder_without_manifest_is_not_loaded(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-0000009").mkdir()
    assert checkpoints.load_newest(tmp_path).path.name == "step-0000001"


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(Interrupted, match=r"step 2 could not be written .* it needs 128 bytes"):
        save(tmp_path, 2)
    assert checkpoints.load_newest(tmp_path).state["progress"]["step"] == 1
    assert not list(tmp_path.glob(".partial*"))


def test_leftovers_of_a_crash_are_deleted_and_never_loaded(tmp_path):
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".partial-step-0000005")
    shutil.copytree(path, tmp_path / ".removed-step-0000000")
    assert checkpoints.load_newest(tmp_path).path.name == "step-0000001"
    checkpoints.clean_up(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]


def test_a_replaced_checkpoint_returns_if_its_successor_is_missing(tmp_path):
    path = save(tmp_path, 1)
    path.rename(tmp_path / ".replaced-step-0000001")
    checkpoints.clean_up(tmp_path)
    assert checkpoints.load_newest(tmp_path).path == path
    shutil.copytree(path, tmp_path / ".replaced-step-0000001")
    checkpoints.clean_up(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]


def test_the_same_step_may_be_saved_again(tmp_path):
    save(tmp_path, 1, value=1.0)
    save(tmp_path, 1, value=2.0)
    assert checkpoints.load_newest(tmp_path).model["w"][0, 0] == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]


def test_the_manifest_names_every_file(tmp_path):
    path = save(tmp_path, 1)
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    assert set(files) == {p.name for p in path.iterdir()} - {"manifest.json"}


TENSORS = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.ones(3, dtype=torch.bfloat16),
    "step": torch.tensor(3.0),
    "ids": torch.tensor([1, 2], dtype=torch.int64),
    "none": torch.zeros(0, 4),
    "ã": torch.tensor([True, False]),
}


def test_bytes_equal_the_library_s_and_match_the_hash(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    output = checkpoints.write_tensors(ours, TENSORS)
    save_file(TENSORS, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()
    assert output.bytes == ours.stat().st_size
    assert output.sha256 == hashlib.sha256(ours.read_bytes()).hexdigest()


def test_transposed_tensors_load_as_they_were(tmp_path):
    transposed = torch.arange(12.0).reshape(3, 4).T
    checkpoints.write_tensors(tmp_path / "t", {"w": transposed.requires_grad_()})
    assert torch.equal(load_file(tmp_path / "t")["w"], transposed)


def test_tied_weights_are_written_once(tmp_path):
    weight = torch.rand(4, 4)
    tensors = {"embed": weight, "head": weight.detach(), "copy": weight + 0}
    checkpoints.write_tensors(tmp_path / "t", tensors)
    assert sorted(load_file(tmp_path / "t")) == ["copy", "embed"]


def test_writing_to_a_full_disk_raises_oserror():
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write_tensors(Path("/dev/full"), TENSORS)
