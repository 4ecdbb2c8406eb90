"""The manifest of each stage: its settings, inputs, outputs and metrics.

A stage's folder without `manifest.json` is unfinished and must not be read. The manifest is written
last and atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from teenytinyllama.errors import UserError

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
FOLDERS_OF_0_1 = ("tokens", "scores", "chat", "quantized")
CHECKPOINT_PREFIX = "step-"
VERIFIED_NAME = ".verified.json"
# Below this, hashing all files takes less than half a second and is done every time.
MIN_REMEMBERED_BYTES = 500_000_000
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
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


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


def hash_outputs(stage_dir: Path) -> dict[str, Output]:
    """Size and SHA-256 of every file below `stage_dir`, except hidden files and the manifest."""
    outputs = {}
    for path in sorted(stage_dir.rglob("*")):
        name = path.relative_to(stage_dir).as_posix()
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if path.is_file() and not hidden and name != MANIFEST_NAME:
            outputs[name] = Output(bytes=path.stat().st_size, sha256=sha256_file(path))
    return outputs


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` so that `path` has all of the old or all of the new bytes, never a part.

    Also after a kill or a power cut: the bytes are synced before the rename, the folder after it.
    """
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


def check_run_version(run_dir: Path) -> None:
    """Raise UserError for a run of version 0.1: its folders and manifests have other names."""
    for name in (*STAGE_NAMES, *FOLDERS_OF_0_1):
        path = run_dir / name / MANIFEST_NAME
        # Version 0.1 called the metrics figures.
        if path.is_file() and b'\n  "figures": {' in path.read_bytes():
            raise UserError(
                "run-of-0.1",
                str(run_dir),
                "was made by version 0.1, which this version cannot read",
                "make it again in another folder: ttl run RECIPE --run-dir FOLDER",
            )


def verify_file(path: Path, sha256: str, *, root: Path | None = None, remember: bool) -> bool:
    """Whether a file has the bytes that were hashed.

    With `remember` it is not read again until somebody writes to it: what was found is noted in a
    dot file of `root` (its folder). Against damage, not against a forger, who can write that too.
    """
    root = path.parent if root is None else root
    name = path.relative_to(root).as_posix()
    if remember and _noted(root).get(name) == _stamp(path, sha256):
        return True
    if sha256_file(path) != sha256:
        return False
    if remember:
        _note(root, {name: _stamp(path, sha256)})
    return True


def note_outputs(stage_dir: Path, outputs: Mapping[str, Output]) -> None:
    """Remember large outputs that were hashed just now."""
    if _total_bytes(outputs) >= MIN_REMEMBERED_BYTES:
        _note(stage_dir, {name: _stamp(stage_dir / name, o.sha256) for name, o in outputs.items()})


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
    remember = _total_bytes(manifest.outputs) >= MIN_REMEMBERED_BYTES
    for name, output in wanted.items():
        path = stage_dir / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _changed(stage_dir, f"names {name!r}, which is outside its folder")
        if not path.is_file():
            if may_be_gone:
                continue
            raise _changed(path, "is missing")
        if path.stat().st_size != output.bytes:
            size = path.stat().st_size
            raise _changed(path, f"has {size:,} bytes, {output.bytes:,} were written")
        if not verify_file(path, output.sha256, root=stage_dir, remember=remember):
            raise _changed(path, "changed since it was written: its SHA-256 is another")


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


def _changed(path: Path, what: str) -> UserError:
    stage = next((name for name in reversed(path.parts) if name in STAGE_NAMES), "STAGE")
    fix = f"put it back from a copy, or run `ttl {stage} RECIPE --redo`"
    return UserError("output-damaged", str(path), what, fix)


def _total_bytes(outputs: Mapping[str, Output]) -> int:
    return sum(output.bytes for output in outputs.values())


def _noted(root: Path) -> dict[str, Any]:
    """What `_note` left, or nothing where it left nothing that can be read."""
    try:
        found = json.loads((root / VERIFIED_NAME).read_bytes())
    except (OSError, ValueError):
        found = {}
    return found if isinstance(found, dict) else {}


def _note(root: Path, stamps: Mapping[str, Any]) -> None:
    if os.access(root, os.W_OK):
        write_atomically(root / VERIFIED_NAME, json.dumps({**_noted(root), **stamps}))


def _stamp(path: Path, sha256: str) -> list[Any]:
    """The bytes that were asked for, and the file that had them; no write leaves its time as is."""
    stat = path.stat()
    return [sha256, stat.st_size, stat.st_ino, stat.st_ctime_ns]


def missing_outputs(stage_dir: Path, outputs: Mapping[str, Output]) -> list[str]:
    """Outputs that are missing or have another size; their bytes are not compared."""
    wrong = []
    for name, output in outputs.items():
        path = stage_dir / name
        if not path.is_file() or path.stat().st_size != output.bytes:
            wrong.append(name)
    return wrong
