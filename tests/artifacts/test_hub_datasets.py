"""Folders of data sets: what they name is inside, and no other machine is asked."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from teenytinyllama.artifacts.hub_datasets import stream_dataset
from teenytinyllama.errors import UserError

pytest.importorskip("datasets")
ROWS = [{"text": f"Texto {n}."} for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in a folder, a file beside it, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("another machine is asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    made = tmp_path / "set"
    (made / "data").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for path in (made / "data" / "train.jsonl", tmp_path / "outside.jsonl"):
        path.write_text(lines, "utf-8")
    return made


def read(path: Path | str, config: str = "") -> list[dict[str, str]]:
    return list(stream_dataset(str(path), config=config, split="train", revision=""))


def card(folder: Path, data_files: str, name: str = "README.md") -> None:
    head = f"configs:\n- config_name: default\n  {data_files}\n"
    (folder / name).write_text(head if name.endswith("yaml") else f"---\n{head}---\n", "utf-8")


def test_a_folder_is_read_with_and_without_its_card(folder: Path) -> None:
    assert read(folder) == ROWS
    card(folder, "data_files:\n  - split: train\n    path: data/*.jsonl")
    assert read(folder, "default") == ROWS


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "named",
    [
        "data_files: {outside}",
        "data_files: ../outside.jsonl",
        "data_files: data/../../outside.jsonl",
        "data_files: '../*.jsonl'",
        "data_dir: ..",
        "data_dir: /",
        "data_files:\n  - split: train\n    path: [data/train.jsonl, '{outside}']",
        "data_files: http://127.0.0.1:9/x.jsonl",
        "data_files: hf://datasets/owner/name/x.jsonl",
        "data_files: zip://x.jsonl::http://127.0.0.1:9/x.zip",
        "data_files: file://{outside}",
        "data_files: s3://bucket/x.jsonl",
    ],
)
def test_what_a_card_names_outside_is_refused(named: str, name: str, folder: Path) -> None:
    card(folder, named.format(outside=folder.parent / "outside.jsonl"), name)
    with pytest.raises(UserError, match="which is not in the folder"):
        read(folder)


def test_links_that_lead_out_and_pipes_are_refused(folder: Path) -> None:
    (folder / "data" / "more.jsonl").symlink_to(folder.parent / "outside.jsonl")
    with pytest.raises(UserError, match="a link names"):
        read(folder)
    (folder / "data" / "more.jsonl").unlink()
    os.mkfifo(folder / "data" / "more.jsonl")
    with pytest.raises(UserError, match="is a pipe"):
        read(folder)


def test_a_snapshot_in_the_hubs_cache_is_read(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "abc"
    (tmp_path / "datasets--a--b" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (folder / "data" / "train.jsonl").rename(tmp_path / "datasets--a--b" / "blobs" / "5f")
    (snapshot / "train.jsonl").symlink_to("../../blobs/5f")
    assert read(snapshot) == ROWS


@pytest.mark.parametrize("path", ["/gone", "./gone", "a/b/c", "~/gone"])
def test_a_path_that_is_no_folder_is_not_looked_for_on_the_hub(path: str, folder: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read(path)


def test_images_and_other_rows_that_name_files_are_refused(folder: Path) -> None:
    (folder / "data" / "train.jsonl").unlink()
    (folder / "a.png").write_bytes(b"x")
    (folder / "metadata.jsonl").write_text('{"file_name": "/etc/passwd"}\n', "utf-8")
    with pytest.raises(UserError, match="is read as imagefolder"):
        read(folder)
