"""A file is hashed once; its content decides, and never its times."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.manifests import manifest_of

from teenytinyllama.artifacts import file_hashes
from teenytinyllama.artifacts.file_hashes import (
    FILE_NAME,
    FileHashes,
    hash_finished,
    missing_outputs,
    verify_model,
    verify_outputs,
)
from teenytinyllama.artifacts.manifest import (
    Output,
    hash_outputs,
    read_manifest,
    sha256_file,
    write_manifest,
)
from teenytinyllama.errors import UserError


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read; every file counts as old enough."""
    names: list[str] = []

    def counting(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(file_hashes, "sha256_file", counting)
    monkeypatch.setattr(file_hashes, "TICK_NS", -(10**12))
    return names


def test_a_file_is_read_once_also_by_the_next_run(tmp_path: Path, hashed: list[str]) -> None:
    text = tmp_path / "a.txt"
    text.write_text("a")
    run = tmp_path / "run"
    run.mkdir()
    one = FileHashes(run)
    assert one.sha256(text) == one.sha256(text) == sha256_file(text)
    one.save()
    assert FileHashes(run).sha256(text) == sha256_file(text)
    assert hashed == ["a.txt"]


def test_new_times_are_hashed_once_and_said(
    tmp_path: Path, hashed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("a")
    hashes = FileHashes(tmp_path)
    before = hashes.fingerprint([text], "corpus")
    assert capsys.readouterr().err == ""
    os.utime(text, ns=(1, 1))
    assert hashes.fingerprint([text], "corpus") == before
    assert hashes.fingerprint([text], "corpus") == before
    assert hashed == ["a.txt", "a.txt"]
    assert capsys.readouterr().err == (
        "corpus: comparing the content of a file (0.0 MB), their times changed\n"
    )


def test_other_bytes_under_the_old_size_and_time_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    hashes = FileHashes(tmp_path)
    seen = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        seen.add(hashes.sha256(path))
    assert len(seen) == 2


def test_a_moved_folder_has_the_same_fingerprint_and_a_renamed_file_another(
    tmp_path: Path,
) -> None:
    for name in ("text/a.txt", "text/sub/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def seen(folder: Path) -> str:
        return FileHashes(tmp_path).fingerprint(folder.rglob("*.txt"), "corpus")

    before = seen(tmp_path / "text")
    shutil.copytree(tmp_path / "text", tmp_path / "copy")
    assert seen(tmp_path / "copy") == before
    (tmp_path / "copy" / "a.txt").rename(tmp_path / "copy" / "c.txt")
    assert seen(tmp_path / "copy") != before


def test_a_moved_run_keeps_the_hashes_of_its_files(tmp_path: Path, hashed: list[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "a.bin").write_bytes(b"a")
    hashes = FileHashes(run)
    hashes.sha256(run / "a.bin")
    hashes.save()
    run.rename(tmp_path / "moved")
    FileHashes(tmp_path / "moved").sha256(tmp_path / "moved" / "a.bin")
    assert hashed == ["a.bin"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": [1, 2]}'])
def test_a_damaged_cache_is_no_reason_to_fail(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"a")
    (tmp_path / FILE_NAME).write_text(text)
    assert FileHashes(tmp_path).sha256(path) == sha256_file(path)


def test_missing_outputs_are_those_gone_or_of_another_size(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    outputs = hash_outputs(tmp_path)
    assert missing_outputs(tmp_path, outputs) == []
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("longer than before")
    (tmp_path / "c").write_text("x")
    assert missing_outputs(tmp_path, outputs) == ["a", "b"]


@pytest.fixture
def stage_dir(tmp_path: Path) -> Path:
    """A finished pretrain stage: a model, a log and a checkpoint."""
    folder = tmp_path / "pretrain"
    for name in ("final/model.safetensors", "metrics.jsonl", "step-0000010/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 20)
    write_manifest(folder, manifest_of("pretrain", outputs=hash_outputs(folder)))
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
        outside = manifest_of(outputs={name: Output(bytes=1, sha256="0")})
        with pytest.raises(UserError, match="which is outside its folder"):
            verify_outputs(stage_dir, outside)


def test_large_outputs_are_hashed_again_only_after_a_write(
    stage_dir: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_manifest(stage_dir)
    assert found is not None
    verify_outputs(stage_dir, found)
    verify_outputs(stage_dir, found)
    assert hashed == ["model.safetensors"] * 2  # a small one: every time
    monkeypatch.setattr(file_hashes, "MIN_REMEMBERED_BYTES", 0)
    assert hash_finished(stage_dir) == found.outputs
    num_hashed = len(hashed)
    verify_outputs(stage_dir, found)
    assert len(hashed) == num_hashed
    copy = stage_dir.with_name("copy")
    shutil.copytree(stage_dir, copy)  # another file with the same bytes: hashed once
    verify_outputs(copy, found)
    verify_outputs(copy, found)
    assert hashed[num_hashed:] == ["model.safetensors"]
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
