"""What is set aside is numbered, found again, and deleted oldest first."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.manifests import manifest_of

from teenytinyllama.artifacts.manifest import write_json, write_manifest
from teenytinyllama.pipeline.previous_results import MARK_NAME, PreviousResults, read_mark


def put(run_dir: Path, *, fingerprint: str, finished: bool) -> None:
    folder = run_dir / "pack"
    folder.mkdir()
    (folder / "train.bin").write_text(fingerprint)
    if finished:
        write_manifest(folder, manifest_of(fingerprint=fingerprint))
    else:
        write_json(folder / MARK_NAME, {"fingerprint": fingerprint, "settings": {}})


@pytest.fixture
def previous(tmp_path: Path) -> PreviousResults:
    found = PreviousResults(tmp_path)
    for number in range(12):
        put(tmp_path, fingerprint="ab"[number % 2], finished=number % 3 == 0)
        found.set_aside("pack")
    return found


def test_newest_that_fits_is_found_and_taken_back(previous: PreviousResults) -> None:
    found = previous.finished("pack", lambda manifest: manifest.fingerprint == "a")
    assert found is not None
    assert found.number == 7
    unfinished = previous.unfinished("pack", "b")
    assert unfinished is not None
    assert unfinished.number == 12
    previous.take_back(found)
    assert (previous.run_dir / "pack" / "train.bin").read_text() == "a"
    assert previous.finished("corpus", lambda _: True) is None


def test_finished_and_unfinished_ones_are_kept_apart(
    previous: PreviousResults, capsys: pytest.CaptureFixture[str]
) -> None:
    previous.prune("pack", 2)
    assert [(one.number, one.is_finished) for one in previous.of("pack")] == [
        (7, True), (10, True), (11, False), (12, False),
    ]  # fmt: skip
    assert len(capsys.readouterr().err.splitlines()) == 8
    previous.prune("pack", 0)
    assert previous.of("pack") == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": "a"}', "\0"])
def test_mark_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / MARK_NAME).write_text(text)
    assert read_mark(tmp_path) is None


def test_what_a_link_leads_to_is_never_deleted(previous: PreviousResults, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "pack" / "1").mkdir(parents=True)
    (elsewhere / "pack" / "1" / "precious").write_text("1")
    (previous.folder / "pack" / "13").symlink_to(elsewhere / "pack" / "1")
    (previous.folder / "pack" / "14").write_text("a file")
    assert [one.number for one in previous.of("pack")] == list(range(1, 13))
    put(tmp_path, fingerprint="a", finished=True)
    assert previous.set_aside("pack").name == "15"
    other = PreviousResults(tmp_path / "other")
    other.run_dir.mkdir()
    other.folder.symlink_to(elsewhere)
    other.prune("pack", 0)
    assert other.of("pack") == [] and (elsewhere / "pack" / "1" / "precious").is_file()
