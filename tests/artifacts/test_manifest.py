"""Manifests and files are written atomically, and fingerprints ignore what does not matter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.manifests import manifest_of

from teenytinyllama.artifacts import manifest
from teenytinyllama.artifacts.manifest import (
    Output,
    fingerprint_files,
    fingerprint_of,
    hash_outputs,
    read_manifest,
    run_name,
    sync_tree,
    write_atomically,
    write_manifest,
)
from teenytinyllama.errors import UserError


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_lies_in_place_of_run_json_is_not_waited_for(tmp_path: Path, put) -> None:
    put(tmp_path / "run.json")
    with pytest.raises(UserError, match="run-missing"):
        run_name(tmp_path)


def test_a_deeply_nested_run_json_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="run-missing"):
        run_name(tmp_path)


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, manifest_of())
    assert read_manifest(tmp_path) == manifest_of()


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
    one = manifest_of(outputs={"train.bin": data, "sub/metrics.jsonl": first})
    other = manifest_of(outputs={"train.bin": data, "sub/metrics.jsonl": second})
    assert one.content_fingerprint() == other.content_fingerprint()
    assert (
        one.content_fingerprint() != manifest_of(outputs={"train.bin": first}).content_fingerprint()
    )


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


def test_tree_is_synced_from_its_files_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "model.safetensors").touch()
    synced: list[str] = []
    monkeypatch.setattr(manifest, "sync_folder", lambda path: synced.append(path.name))
    sync_tree(tmp_path / "final")
    assert synced == ["model.safetensors", "final"]


def test_a_path_that_is_not_utf8_has_a_fingerprint():
    paths = [os.fsdecode(name) for name in (b"caf\xe9.txt", b"caf\xe8.txt")]
    assert len({manifest.fingerprint_of(path) for path in paths}) == 2
