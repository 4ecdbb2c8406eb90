"""Manifests and files are written atomically, and fingerprints ignore what does not matter."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from teenytinyllama.artifacts import manifest
from teenytinyllama.artifacts.manifest import (
    Manifest,
    Output,
    fingerprint_files,
    fingerprint_of,
    hash_outputs,
    missing_outputs,
    note_outputs,
    read_manifest,
    sync_tree,
    verify_model,
    verify_outputs,
    write_atomically,
    write_manifest,
)
from teenytinyllama.errors import UserError


def made(**outputs: Output) -> Manifest:
    return Manifest(
        stage="pack", version="1", fingerprint="f", recipe={}, inputs={}, outputs=outputs,
        counts={}, metrics={}, started_at="2026-11-30T00:00:00Z", duration_s=1.0, energy_kwh={},
        emissions_kg=0.0, versions={},
    )  # fmt: skip


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, made())
    assert read_manifest(tmp_path) == made()


@pytest.mark.parametrize("text", ["", "{", '{"stage": "pack"}'])
def test_a_damaged_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path)
    assert error.value.code == "manifest-damaged"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_times_and_rates_do_not_change_the_content_fingerprint() -> None:
    data, first, second = (Output(bytes=1, sha256=letter) for letter in "abc")
    one = made(**{"train.bin": data, "sub/metrics.jsonl": first})
    other = made(**{"train.bin": data, "sub/metrics.jsonl": second})
    assert one.content_fingerprint() == other.content_fingerprint()
    assert one.content_fingerprint() != made(**{"train.bin": first}).content_fingerprint()


def test_the_order_of_keys_does_not_change_a_fingerprint() -> None:
    assert fingerprint_of({"a": 1, "b": [2]}) == fingerprint_of({"b": [2], "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})


def test_a_changed_file_changes_the_fingerprint_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    before = fingerprint_files([path])
    assert fingerprint_files([path]) == before
    path.write_text("ab")
    assert fingerprint_files([path]) != before


def test_outputs_leave_out_hidden_files_and_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".cache").mkdir(parents=True)
    for name in ("a.bin", "sub/b.bin", ".hidden", "sub/.cache/c.bin", "manifest.json"):
        (tmp_path / name).write_text(name)
    outputs = hash_outputs(tmp_path)
    assert list(outputs) == ["a.bin", "sub/b.bin"]
    assert missing_outputs(tmp_path, outputs) == []
    (tmp_path / "a.bin").unlink()
    (tmp_path / "sub/b.bin").write_text(json.dumps("longer than before"))
    assert missing_outputs(tmp_path, outputs) == ["a.bin", "sub/b.bin"]


@pytest.fixture
def stage_dir(tmp_path: Path) -> Path:
    """A finished pretrain stage: a model, a log and a checkpoint."""
    folder = tmp_path / "pretrain"
    for name in ("final/model.safetensors", "metrics.jsonl", "step-0000010/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 20)
    write_manifest(folder, made(**hash_outputs(folder)))
    return folder


def flip(path: Path) -> None:
    """Change one bit and keep size and time of change, as a bad disk does."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def found_damage(stage_dir: Path) -> str:
    manifest_of_stage = read_manifest(stage_dir)
    assert manifest_of_stage is not None
    with pytest.raises(UserError) as error:
        verify_outputs(stage_dir, manifest_of_stage)
    assert error.value.code == "output-damaged"
    return str(error.value)


def test_outputs_of_a_stage_are_verified(stage_dir: Path) -> None:
    found = read_manifest(stage_dir)
    assert found is not None
    (stage_dir / "metrics.jsonl").write_text("")  # written for people
    shutil.rmtree(stage_dir / "step-0000010")  # has hashes of its own, and may be removed
    verify_outputs(stage_dir, found)
    model = stage_dir / "final" / "model.safetensors"
    flip(model)
    assert "model.safetensors - changed since it was written" in found_damage(stage_dir)
    assert "run `ttl pretrain RECIPE --redo`" in found_damage(stage_dir)
    model.write_bytes(b"")
    assert "has 0 bytes, 460 were written" in found_damage(stage_dir)
    model.unlink()
    assert "is missing" in found_damage(stage_dir)
    verify_outputs(stage_dir, found, may_be_gone=True)


def test_output_outside_the_folder_is_not_read(stage_dir: Path) -> None:
    for name in ("../secret", "/etc/hostname"):
        outside = made(**{name: Output(bytes=1, sha256="0")})
        with pytest.raises(UserError, match="which is outside its folder"):
            verify_outputs(stage_dir, outside)


def test_large_outputs_are_hashed_again_only_after_a_write(
    stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    true_hash = manifest.sha256_file

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return true_hash(path)

    found = read_manifest(stage_dir)
    assert found is not None
    monkeypatch.setattr(manifest, "sha256_file", counting)
    verify_outputs(stage_dir, found)
    verify_outputs(stage_dir, found)
    assert hashed == ["model.safetensors"] * 2  # a small one: every time
    monkeypatch.setattr(manifest, "MIN_REMEMBERED_BYTES", 0)
    note_outputs(stage_dir, found.outputs)
    verify_outputs(stage_dir, found)
    assert len(hashed) == 2
    copy = stage_dir.with_name("copy")
    shutil.copytree(stage_dir, copy)  # another file with the same bytes: hashed once
    verify_outputs(copy, found)
    verify_outputs(copy, found)
    assert len(hashed) == 3
    flip(stage_dir / "final" / "model.safetensors")
    assert "changed since it was written" in found_damage(stage_dir)


def test_model_of_a_run_is_verified_and_others_are_not(stage_dir: Path, tmp_path: Path) -> None:
    model = stage_dir / "final"
    verify_model(model)
    flip(model / "model.safetensors")
    for path in (model, model / "model.safetensors"):
        with pytest.raises(UserError, match="output-damaged"):
            verify_model(path)
    verify_model(tmp_path)
    (stage_dir / "manifest.json").write_text('{"files": {}}')  # of another tool
    verify_model(model)


def test_tree_is_synced_from_its_files_up(stage_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(manifest, "sync_folder", lambda path: synced.append(path.name))
    sync_tree(stage_dir / "final")
    assert synced == ["model.safetensors", "final"]
