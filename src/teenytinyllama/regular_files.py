"""Files that a user names: `~` in their paths; no pipe, socket or device is opened."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import BinaryIO

from teenytinyllama.errors import UserError


def user_path(name: str | Path) -> Path:
    """The path with a home folder for `~`; one of an unknown user stays, as in a shell."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib's raises for an unknown user)


def open_regular(path: Path) -> BinaryIO:
    """Open a file that a user named. Raises UserError for a pipe, a socket or a device.

    A pipe that nobody writes to would be waited for without end, a device has no end.
    """
    # Without O_NONBLOCK opening a pipe waits for its other side.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        check_regular(path, os.fstat(handle).st_mode)
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def check_no_folder(path: Path) -> None:
    """Raise UserError for a folder where a file is to be written."""
    if path.is_dir() and not path.is_symlink():
        fix = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.old')}"
        raise UserError("file-kind", str(path), "is a folder where a file is to be written", fix)


def check_regular(path: Path, mode: int | None = None) -> None:
    """Raise UserError for what is there but is no regular file; OSError where nothing is."""
    mode = path.stat().st_mode if mode is None else mode
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise UserError("file-kind", str(path), "is a folder, expected a file", "name a file in it")
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    what = kinds.get(stat.S_IFMT(mode), "a device")
    raise UserError(
        "file-kind",
        str(path),
        f"is {what}, expected a regular file",
        "remove it from what is read, or write what comes out of it to a file and name that",
    )
