"""Whose a run folder is, what is moved out of the way, and what stops the work."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.command_line import SMALL_RECIPE, log_of

from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.pipeline import spending
from teenytinyllama.pipeline.run_folder import UNFINISHED, RunFolder, explain_os_error
from teenytinyllama.pipeline.spending import SpendingLog
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.recipe import load_recipe
from teenytinyllama.stages import pack, pretrain


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def prepare(folder: RunFolder, stage: object, fingerprint: str, redo: bool = False) -> None:
    settings = {"seed": fingerprint}
    folder.prepare(stage, fingerprint, settings, redo=redo, reason="inputs changed")  # type: ignore[arg-type]


def left_by(folder: RunFolder, stage: str) -> set[str]:
    return {path.name for path in (folder.path / stage).iterdir()}


def test_same_unfinished_work_stays(folder: RunFolder) -> None:
    prepare(folder, pretrain.STAGE, "a")
    (folder.path / "pretrain" / "step-1").mkdir()
    prepare(folder, pretrain.STAGE, "a")
    assert left_by(folder, "pretrain") == {UNFINISHED, "step-1"}


def test_other_unfinished_work_moves_away(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder, pack.STAGE, "a")
    (folder.path / "pack" / "train.bin").touch()
    prepare(folder, pack.STAGE, "b")
    assert left_by(folder, "pack") == {UNFINISHED}
    assert left_by(folder, ".previous/pack/1") == {UNFINISHED, "train.bin"}
    assert capsys.readouterr().err == (
        'pack: settings changed (seed "a" -> "b"); unfinished work moved to '
        f"{folder.path / '.previous' / 'pack' / '1'} (62 bytes)\n"
    )


def test_other_unfinished_training_needs_redo(folder: RunFolder) -> None:
    prepare(folder, pretrain.STAGE, "a")
    (folder.path / "pretrain" / "step-1").mkdir()
    with pytest.raises(UserError, match=r'unfinished-differs.*seed "a" -> "b"'):
        prepare(folder, pretrain.STAGE, "b")
    prepare(folder, pretrain.STAGE, "b", redo=True)
    assert left_by(folder, ".previous/pretrain/1") == {UNFINISHED, "step-1"}


def test_finished_training_moves_away_even_with_its_mark(folder: RunFolder) -> None:
    # A kill between the manifest and the removal of the mark leaves both.
    prepare(folder, pretrain.STAGE, "a")
    (folder.path / "pretrain" / "manifest.json").touch()
    prepare(folder, pretrain.STAGE, "b")
    assert left_by(folder, ".previous/pretrain/1") == {UNFINISHED, "manifest.json"}


def test_mark_alone_replaces_no_previous_result(folder: RunFolder) -> None:
    prepare(folder, pack.STAGE, "a")
    (folder.path / "pack" / "train.bin").touch()
    prepare(folder, pack.STAGE, "b")
    prepare(folder, pack.STAGE, "c")
    assert "train.bin" in left_by(folder, ".previous/pack/1")


def test_work_set_aside_goes_on_where_its_settings_come_back(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder, pretrain.STAGE, "a")
    (folder.path / "pretrain" / "step-1").mkdir()
    prepare(folder, pretrain.STAGE, "b", redo=True)
    (folder.path / "pretrain" / "step-2").mkdir()
    capsys.readouterr()
    prepare(folder, pretrain.STAGE, "a")
    assert left_by(folder, "pretrain") == {UNFINISHED, "step-1"}
    assert left_by(folder, ".previous/pretrain/2") == {UNFINISHED, "step-2"}
    said = capsys.readouterr().err
    assert f"going on with the unfinished work in {folder.path}/.previous/pretrain/1\n" in said


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": 1}', "\0\0"])
def test_damaged_mark_is_restored_from_the_record_of_the_last_process(
    folder: RunFolder, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder, pretrain.STAGE, "a")
    stage_dir = folder.path / "pretrain"
    (stage_dir / "step-1").mkdir()
    (stage_dir / UNFINISHED).write_text(content)
    with pytest.raises(UserError, match="unfinished-unknown"):
        prepare(folder, pretrain.STAGE, "a")
    with SpendingLog(stage_dir, "a", EnergyMeter(EnergySettings())).running():
        pass
    prepare(folder, pretrain.STAGE, "a")
    assert "damaged or missing; restored" in capsys.readouterr().err
    assert json.loads((stage_dir / UNFINISHED).read_bytes())["fingerprint"] == "a"


def test_copy_of_hard_links_does_not_write_into_the_original(folder: RunFolder) -> None:
    prepare(folder, pretrain.STAGE, "a")
    original = folder.path / "pretrain"
    (original / "step-1").mkdir()
    for name in ("metrics.jsonl", "step-1/model.safetensors"):
        (original / name).write_text("1\n")
    copy = RunFolder(folder.path / "copy")
    shutil.copytree(original, copy.path / "pretrain", copy_function=os.link)
    prepare(copy, pretrain.STAGE, "a")
    with (copy.path / "pretrain" / "metrics.jsonl").open("a") as file:
        file.write("2\n")
    assert (original / "metrics.jsonl").read_text() == "1\n"
    assert (original / "step-1" / "model.safetensors").stat().st_nlink == 2


def test_a_link_in_a_run_never_has_another_file_written(
    folder: RunFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    precious = tmp_path_factory.mktemp("elsewhere") / "precious.txt"
    precious.write_text("1\n")
    (folder.path / ".lock").unlink(missing_ok=True)
    (folder.path / ".lock").symlink_to(precious)
    with folder.owned():
        pass
    prepare(folder, pretrain.STAGE, "a")
    (folder.path / "pretrain" / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(UserError, match=r"run-link.*outside the run"):
        prepare(folder, pretrain.STAGE, "a")
    (folder.path / "pretrain" / "metrics.jsonl").unlink()
    (folder.path / "pretrain" / spending.FILE_NAME).symlink_to(precious)
    with pytest.raises(UserError, match="run-link"):
        SpendingLog(folder.path / "pretrain", "a", EnergyMeter(EnergySettings()))
    assert precious.read_text() == "1\n"


def test_a_link_inside_a_run_becomes_a_file(folder: RunFolder) -> None:
    prepare(folder, pretrain.STAGE, "a")
    (folder.path / "log.jsonl").write_text("1\n")
    (folder.path / "pretrain" / "metrics.jsonl").symlink_to(folder.path / "log.jsonl")
    prepare(folder, pretrain.STAGE, "a")
    with (folder.path / "pretrain" / "metrics.jsonl").open("a") as file:
        file.write("2\n")
    assert (folder.path / "log.jsonl").read_text() == "1\n"


def test_a_pipe_for_the_lock_is_an_error(folder: RunFolder) -> None:
    (folder.path / ".lock").unlink(missing_ok=True)
    os.mkfifo(folder.path / ".lock")
    with pytest.raises(UserError, match="is a pipe"), folder.owned():
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\0"])
def test_damaged_run_json_is_written_again(
    folder: RunFolder, content: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(SMALL_RECIPE)
    recipe = load_recipe(tmp_path / "small.toml")
    (folder.path / "run.json").write_text(content)
    with folder.locked(recipe):
        pass
    assert json.loads((folder.path / "run.json").read_bytes())["name"] == "small"
    assert "run.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", ".lock"])
def test_a_folder_where_a_file_belongs_is_one_line(
    folder: RunFolder, name: str, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(SMALL_RECIPE)
    recipe = load_recipe(tmp_path / "small.toml")
    (folder.path / ".lock").unlink(missing_ok=True)
    (folder.path / name).mkdir(parents=True)
    with pytest.raises(UserError) as error, folder.locked(recipe):
        pass
    assert error.value.where == str(folder.path / name)
    subprocess.run(shlex.split(error.value.fix), check=True)
    with folder.locked(recipe):
        pass


def test_full_disk_is_resumable_and_forbidden_folder_is_not(tmp_path: Path) -> None:
    full = explain_os_error(OSError(errno.ENOSPC, "No space", "x.bin"), tmp_path)
    assert isinstance(full, Interrupted)
    assert "no space left for x.bin" in str(full)
    forbidden = explain_os_error(OSError(errno.EACCES, "Permission denied", "x.bin"), tmp_path)
    assert isinstance(forbidden, UserError)
    other = OSError(errno.EIO, "Input/output error")
    assert explain_os_error(other, tmp_path) is other


@pytest.mark.parametrize(
    "command",
    [
        ("run", "small.toml", "--run-dir", "old"),
        ("pack", "small.toml", "--run-dir", "old"),
        ("report", "old"),
        ("chat", "old"),
        ("serve", "old", "--port", "0"),
        ("publish", "old", "--to", "ana/old"),
    ],
    ids=lambda words: words[0],
)
def test_run_of_version_0_1_is_one_line(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL_RECIPE + "[tokenizer]\n[pack]\n")
    run = tmp_path / "old"
    for name in ("tokens", "chat", "chat/final"):
        (run / name).mkdir(parents=True)
    (run / "pack").symlink_to("tokens")
    (run / "align").symlink_to("chat")
    before = {"name": "small", "recipe": {"name": "small"}}
    write_json(run / "run.json", before)
    write_json(run / "chat" / "final" / "config.json", {"model_type": "llama"})
    write_json(run / "tokens" / "manifest.json", {"version": "0.1.0", "figures": {"x": 1}})
    line = log_of(*command, code=2)
    assert line == (
        "error[run-of-0.1] old - was made by version 0.1, which this version cannot read - "
        "fix: make it again in another folder: ttl run RECIPE --run-dir FOLDER"
    )
    assert json.loads((run / "run.json").read_bytes()) == before
