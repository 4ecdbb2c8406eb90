"""SHA-256 of files, computed once: a file is read again only where its size or times changed.

Contents decide whether two files are equal, and whether outputs are what their stage left. Size and
times only decide whether to hash: a run that skips everything must take seconds, and a corpus may
have hundreds of gigabytes. This finds damage, not a forger, who can write the hashes too.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from teenytinyllama.artifacts.manifest import (
    CHECKPOINT_PREFIX,
    MANIFEST_NAME,
    VOLATILE_FILES,
    Manifest,
    Output,
    fingerprint_of,
    hash_outputs,
    read_manifest,
    sha256_file,
    write_atomically,
)
from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)

FILE_NAME = ".file_hashes.json"
# A file that is changed twice within one tick of the file system's clock keeps its times.
TICK_NS = 100_000_000
SAID_FROM_BYTES = 200_000_000
# Below this, hashing all outputs of a stage takes less than half a second and is done every time.
MIN_REMEMBERED_BYTES = 500_000_000

Stamp = tuple[int, int, int]
"""Size, time of the last change, and the time of the last change of its inode, which no program
can set."""


class FileHashes:
    """Hashes of files, remembered in a folder: a run's for what it reads, a stage's for its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._is_changed = False
        # A cache: whatever cannot be read is hashed again.
        with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
            for name, (size, mtime, ctime, digest) in json.loads(self._path.read_bytes()).items():
                self._known[str(name)] = ((size, mtime, ctime), str(digest))

    @property
    def _path(self) -> Path:
        return self._folder / FILE_NAME

    def _key(self, path: Path) -> str:
        # Relative in the folder: one that was moved keeps its hashes. Of files elsewhere no path
        # is kept: run folders are passed on, and paths name people.
        whole, root = os.path.abspath(path), os.path.abspath(self._folder)  # noqa: PTH100
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
        if max(stamp[1:]) < started_ns - TICK_NS:
            self._known[key] = (stamp, digest)
        else:
            self._known.pop(key, None)
        self._is_changed = True
        return digest

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
        """Write what was hashed, for the next run; nothing into a folder of somebody else."""
        if self._is_changed and os.access(self._folder, os.W_OK):
            rows = {name: (*stamp, digest) for name, (stamp, digest) in self._known.items()}
            write_atomically(self._path, json.dumps(rows, indent=0) + "\n")
            self._is_changed = False

    def save_if_large(self, num_bytes: int) -> None:
        """`save`, where hashing so many bytes again would take long."""
        if num_bytes >= MIN_REMEMBERED_BYTES:
            self.save()


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def hash_finished(stage_dir: Path) -> dict[str, Output]:
    """`hash_outputs` of a stage that has just finished; large ones are remembered."""
    hashes = FileHashes(stage_dir)
    outputs = hash_outputs(stage_dir, hashes.sha256)
    hashes.save_if_large(_total_bytes(outputs))
    return outputs


def verify_outputs(
    stage_dir: Path, manifest: Manifest, *, below: str = "", may_be_gone: bool = False
) -> None:
    """Raise UserError where a file of a finished stage is not what the stage left.

    `below` limits it to one folder of the stage, such as "final/". Logs, which are written for
    people, may differ. Checkpoints may be gone, and have hashes of their own for who loads them.
    """
    wanted = {
        name: output
        for name, output in manifest.outputs.items()
        if name.startswith(below)
        and Path(name).name not in VOLATILE_FILES
        and (below or not name.startswith(CHECKPOINT_PREFIX))
    }
    hashes = FileHashes(stage_dir)
    for name, output in wanted.items():
        path = stage_dir / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _changed(manifest, stage_dir, f"names {name!r}, which is outside its folder")
        if not path.is_file():
            if may_be_gone:
                continue
            raise _changed(manifest, path, "is missing")
        if path.stat().st_size != output.bytes:
            size = path.stat().st_size
            raise _changed(manifest, path, f"has {size:,} bytes, {output.bytes:,} were written")
        if hashes.sha256(path) != output.sha256:
            raise _changed(manifest, path, "changed since it was written: its SHA-256 is another")
    hashes.save_if_large(_total_bytes(manifest.outputs))


def verify_model(path: Path) -> None:
    """`verify_outputs` for a model's folder or file inside a finished stage; nothing for others."""
    path = path.resolve()
    for stage_dir in list(path.parents)[:2]:
        if _is_stage_manifest(stage_dir / MANIFEST_NAME):
            manifest = read_manifest(stage_dir)
            assert manifest is not None
            name = path.relative_to(stage_dir).as_posix()
            verify_outputs(stage_dir, manifest, below=f"{name}/" if path.is_dir() else name)
            return


def _is_stage_manifest(path: Path) -> bool:
    """Whether a file is the manifest of a stage, not a checkpoint's or another tool's."""
    return path.is_file() and path.read_bytes()[:64].lstrip(b"{ \n").startswith(b'"stage"')


def _changed(manifest: Manifest, path: Path, what: str) -> UserError:
    fix = f"put it back from a copy, or run `ttl {manifest.stage} RECIPE --redo`"
    return UserError("output-damaged", str(path), what, fix)


def _total_bytes(outputs: Mapping[str, Output]) -> int:
    return sum(output.bytes for output in outputs.values())


def missing_outputs(stage_dir: Path, outputs: Mapping[str, Output]) -> list[str]:
    """Outputs that are missing or have another size; their bytes are not compared."""
    wrong = []
    for name, output in outputs.items():
        path = stage_dir / name
        if not path.is_file() or path.stat().st_size != output.bytes:
            wrong.append(name)
    return wrong
