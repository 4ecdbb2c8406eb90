"""SHA-256 of files, computed once: a file is read again only where its size or times changed.

Contents decide whether two files are equal. Size and times only decide whether to hash: a run that
skips everything must take seconds, and a corpus may have hundreds of gigabytes.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from teenytinyllama.artifacts.manifest import (
    fingerprint_of,
    sha256_file,
    write_atomically,
)

logger = logging.getLogger(__name__)

FILE_NAME = ".file_hashes.json"
# A file that is changed twice within one tick of the file system's clock keeps its times.
TICK_NS = 100_000_000
SAID_FROM_BYTES = 200_000_000

Stamp = tuple[int, int, int]
"""Size, time of the last change, and the time of the last change of its inode, which no program
can set."""


class FileHashes:
    """Hashes of the files that a run reads, remembered in its folder."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._is_changed = False
        # A cache: whatever cannot be read is hashed again.
        with suppress(OSError, ValueError, TypeError, AttributeError):
            for name, (size, mtime, ctime, digest) in json.loads(self._path.read_bytes()).items():
                self._known[str(name)] = ((size, mtime, ctime), str(digest))

    @property
    def _path(self) -> Path:
        return self._run_dir / FILE_NAME

    def _key(self, path: Path) -> str:
        # Relative in the run: a folder that was moved keeps its hashes. Of files elsewhere no path
        # is kept: run folders are passed on, and paths name people.
        whole, root = os.path.abspath(path), os.path.abspath(self._run_dir)  # noqa: PTH100
        inside = whole.startswith(root + os.sep)
        return os.path.relpath(whole, root) if inside else fingerprint_of(whole)

    def sha256(self, path: Path) -> str:
        """SHA-256 of the file, in hexadecimal. Raises OSError where it cannot be read."""
        key, stamp = self._key(path), _stamp(path)
        known = self._known.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        started_ns = time.time_ns()
        digest = sha256_file(path)
        self._remember(key, stamp, digest, started_ns)
        return digest

    def _remember(self, key: str, stamp: Stamp, digest: str, now_ns: int) -> None:
        if max(stamp[1:]) < now_ns - TICK_NS:
            self._known[key] = (stamp, digest)
        else:
            self._known.pop(key, None)
        self._is_changed = True

    def fingerprint(self, paths: Iterable[Path], what: str) -> str:
        """Fingerprint of the files' names and contents; `what` names them in a log line.

        The folder that they are all in does not count: a moved folder has the same files.
        """
        paths = sorted(paths)
        self._say_what_is_hashed(paths, what)
        whole = [os.path.abspath(path.parent) for path in paths]  # noqa: PTH100
        root = os.path.commonpath(whole) if whole else ""
        return fingerprint_of([[os.path.relpath(p, root), self.sha256(p)] for p in paths])

    def _say_what_is_hashed(self, paths: Iterable[Path], what: str) -> None:
        size = count = num_seen = 0
        for path in paths:
            known, stamp = self._known.get(self._key(path)), _stamp(path)
            if known is None or known[0] != stamp:
                count += 1
                size += stamp[0]
                num_seen += known is not None
        if num_seen or size >= SAID_FROM_BYTES:
            why = "their times changed" if num_seen else "not seen before"
            many = f"{count:,} files" if count > 1 else "a file"
            logger.info(f"{what}: comparing the content of {many} ({size / 1e6:,.1f} MB), {why}")

    def save(self) -> None:
        """Write what was hashed, for the next run."""
        if self._is_changed and self._run_dir.is_dir():
            rows = {name: (*stamp, digest) for name, (stamp, digest) in self._known.items()}
            write_atomically(self._path, json.dumps(rows, indent=0) + "\n")
            self._is_changed = False


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
