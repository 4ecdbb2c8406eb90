"""The manifest of each stage: its settings, inputs, outputs and metrics.

A stage's folder without `manifest.json` is unfinished and must not be read. The manifest is written
last and atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import check_no_folder, open_regular

MANIFEST_NAME = "manifest.json"
# Stages whose manifests others read, in pipeline order; each stage's folder has its name.
STAGE_NAMES = (
    "corpus",
    "tokenizer",
    "pack",
    "pretrain",
    "evaluate",
    "finetune",
    "align",
    "quantize",
)
CHECKPOINT_PREFIX = "step-"
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Files that differ between equal runs (times, rates): they do not make later stages stale.
VOLATILE_FILES = ("metrics.jsonl", "state.json", "manifest.json")


class Output(BaseModel):
    """Size and SHA-256 of a file that a stage wrote."""

    bytes: int
    sha256: str


class Input(BaseModel):
    """A folder or file that a stage read, with its fingerprint at that time."""

    path: str
    fingerprint: str


class Manifest(BaseModel):
    """`runs/<name>/<stage>/manifest.json`; the fields are a contract (docs/pipeline.md)."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    version: str
    fingerprint: str
    recipe: dict[str, Any]
    inputs: dict[str, Input]
    files: dict[str, str] = {}
    """Fingerprint of the content of the files outside the run that each setting names."""
    outputs: dict[str, Output]
    counts: dict[str, Any]
    metrics: dict[str, Any]
    started_at: str
    duration_s: float
    energy_kwh: dict[str, float]
    emissions_kg: float
    versions: dict[str, str]

    def content_fingerprint(self) -> str:
        """Fingerprint of the stage's outputs, for the stages after it.

        Equal bytes give an equal fingerprint: a stage that runs again with the same result does
        not make later stages stale.
        """
        files = {n: o.sha256 for n, o in self.outputs.items() if Path(n).name not in VOLATILE_FILES}
        return fingerprint_of(files)


def fingerprint_of(value: Any) -> str:
    """First 16 digits of the SHA-256 of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # A path may hold bytes that are not UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Fingerprint of files outside the run, by name, size and time of last change.

    Not by content: a corpus may have hundreds of gigabytes, and a run that skips everything must
    take seconds.
    """
    rows = []
    for path in sorted(paths):
        stat = path.stat()
        rows.append([str(path), stat.st_size, stat.st_mtime_ns])
    return fingerprint_of(rows)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_outputs(folder: Path, sha256: Callable[[Path], str] = sha256_file) -> dict[str, Output]:
    """Size and SHA-256 of every file below `folder`, except hidden files and the manifest."""
    outputs = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if path.is_file() and not hidden and name != MANIFEST_NAME:
            outputs[name] = Output(bytes=path.stat().st_size, sha256=sha256(path))
    return outputs


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` so that `path` has all of the old or all of the new bytes, never a part.

    Also after a kill or a power cut: the bytes are synced before the rename, the folder after it.
    Raises UserError for a folder in its place.
    """
    check_no_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Make everything in `folder` survive a power cut: its files, then the folders that name them.

    `folder` itself is renamed or named by its parent afterwards, which the caller syncs.
    """
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() or path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power cut; or the bytes of a file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented UTF-8 JSON, written atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_manifest(stage_dir: Path, manifest: Manifest) -> None:
    """Write the manifest, which marks the stage as finished."""
    write_json(stage_dir / MANIFEST_NAME, manifest.model_dump(mode="json"))


def read_manifest(stage_dir: Path) -> Manifest | None:
    """The stage's manifest, or None where the stage is unfinished.

    Raises UserError for a manifest that cannot be read.
    """
    path = stage_dir / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            "manifest-damaged",
            str(path),
            f"cannot be read as a manifest ({reason})",
            f"ttl {stage_dir.name} RECIPE: it makes it again, from the work that is there",
        ) from error


def read_run_json(run_dir: Path) -> dict[str, Any]:
    """A run's `run.json`. Raises UserError for another folder, or whatever lies in its place."""
    try:
        with open_regular(run_dir / "run.json") as file:
            run = json.loads(file.read())
        if not isinstance(run, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError, UserError) as error:
        what = "is not a run folder (no readable run.json)"
        raise UserError("run-missing", str(run_dir), what, "ls runs/") from error
    return run


def run_name(run_dir: Path) -> str:
    """The name of a run. Raises UserError for another folder and for a name that no recipe has.

    It becomes part of paths, repositories and commands to type, and the run may be a stranger's.
    """
    name = read_run_json(run_dir).get("name")
    check_run_version(run_dir)
    if not isinstance(name, str) or not _RUN_NAME.fullmatch(name):
        what = f"names the run {name!r}, which is not a recipe name"
        raise UserError("run-damaged", str(run_dir / "run.json"), what, "ttl run RECIPE")
    return name


def check_run_version(run_dir: Path) -> None:
    """Raise UserError for a run of version 0.1: its folders and manifests have other names."""
    for path in run_dir.glob(f"*/{MANIFEST_NAME}"):
        # Version 0.1 called the metrics figures.
        if path.is_file() and b'\n  "figures": {' in path.read_bytes():
            raise UserError(
                "run-of-0.1",
                str(run_dir),
                "was made by version 0.1, which this version cannot read",
                "make it again in another folder: ttl run RECIPE --run-dir FOLDER",
            )
