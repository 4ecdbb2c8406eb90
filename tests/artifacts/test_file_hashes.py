"""A file is hashed once; its content decides, and never its times."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from teenytinyllama.artifacts import file_hashes
from teenytinyllama.artifacts.file_hashes import FILE_NAME, FileHashes
from teenytinyllama.artifacts.manifest import sha256_file


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
