"""Pipes, sockets and devices are refused at once; nothing waits for them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import check_regular, open_regular, user_path


def test_a_pipe_is_refused_without_waiting_for_its_other_side(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe, expected a regular file"):
        open_regular(tmp_path / "pipe")


def test_sockets_devices_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("s")
        with pytest.raises(UserError, match="is a socket"):
            check_regular(Path("s"))
    with pytest.raises(UserError, match="is a device"):
        open_regular(Path("/dev/zero"))
    with pytest.raises(UserError, match="is a folder"):
        open_regular(tmp_path)


def test_a_link_to_a_regular_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"x"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "c")


def test_a_home_of_nobody_stays_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ana")
    assert user_path("~/a.txt") == Path("/home/ana/a.txt")
    assert user_path("~nobody-here/a.txt") == Path("~nobody-here/a.txt")
