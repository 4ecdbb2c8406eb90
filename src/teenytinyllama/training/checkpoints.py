"""Atomic, hashed checkpoints: complete or invisible, and verified before they are loaded.

    step-0001200/
        config.json, model.safetensors, tokenizer files   a plain Hugging Face model
        optimizer.safetensors                             moments, by parameter name
        state.json                                        step, tokens, energy, log length
        manifest.json                                     sizes and SHA-256; written last

A save writes a hidden folder, hashes and syncs every file, writes the manifest, renames, syncs
the parent, and only then prunes older rolling checkpoints; their files are deleted while training
continues. A load takes the newest folder whose every hash matches; a damaged one is renamed
`damaged-...` and kept. Nothing is pickled.

Tensors go from their own memory to the file while a second thread hashes that same memory. The
library's `save_file` copies every tensor and does not sync, and hashing would read the file again.
So the hash is of what the run held, not of what came back from the disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from teenytinyllama.artifacts.manifest import (
    MANIFEST_NAME,
    Output,
    hash_outputs,
    sync_folder,
    write_json,
)
from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.progress import format_bytes

logger = logging.getLogger(__name__)

MODEL_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"
STEP_NAME = re.compile(r"step-(\d{7,})")
NUM_ROLLING_KEPT = 2

# Names of the format (https://github.com/huggingface/safetensors, "Format").
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT_BYTES = 8
FLUSH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Checkpoint:
    """The content of a verified checkpoint."""

    path: Path
    state: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def folder_name(step: int) -> str:
    """`step-0001200` for step 1200."""
    return f"step-{step:07d}"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints by step, oldest first, without hidden and damaged folders."""
    found = []
    for path in folder.glob("step-*"):
        match = STEP_NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found)


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    write_model_files: Callable[[Path], None],
    keep: Callable[[int], bool],
) -> Path:
    """Write the checkpoint of `step`, then prune the older ones.

    The newest two stay, and all for whose step `keep` is true. `write_model_files(path)` adds
    configuration and tokenizer. Raises ValueError for weights that are not finite: such a model is
    never saved. Raises Interrupted where the disk is full; older checkpoints are untouched then.
    Pruned ones are invisible on return, and deleted when `finish_removals` returns or the next save
    begins.
    """
    for name, tensor in model.items():
        if not _is_finite(tensor):
            raise ValueError(f"{name} is not finite at step {step}: not saved")
    final = folder / folder_name(step)
    partial = folder / f".partial-{folder_name(step)}"
    shutil.rmtree(partial, ignore_errors=True)
    finish_removals()
    try:
        _make_folder(folder)
        partial.mkdir()
        written = {
            MODEL_NAME: write_tensors(partial / MODEL_NAME, model),
            OPTIMIZER_NAME: write_tensors(partial / OPTIMIZER_NAME, optimizer),
        }
        (partial / STATE_NAME).write_text(json.dumps(dict(state), indent=2), encoding="utf-8")
        write_model_files(partial)
        _seal(partial, written)
        replaced = _hide(final, "replaced") if final.exists() else None
        partial.rename(final)
        sync_folder(folder)
    except OSError as error:
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        shutil.rmtree(partial, ignore_errors=True)
        size = sum(t.nbytes for t in (*model.values(), *optimizer.values()))
        reason = f"the checkpoint of step {step} could not be written to {final} ({error})"
        raise Interrupted(f"{reason}; it needs {size:,} bytes, {free:,} are free") from error
    if replaced is not None:
        _delete(replaced)
    _prune(folder, keep)
    return final


def _is_finite(tensor: Tensor) -> bool:
    """Whether no element is infinite or NaN.

    The sum is many times faster than a test of each element, which only a sum that is not finite
    needs: large elements may overflow it.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _make_folder(folder: Path) -> None:
    """Make `folder` such that it survives a power cut, with what it will hold."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _seal(folder: Path, written: Mapping[str, Output]) -> None:
    """Sync and hash the files that are not in `written`, then write the manifest of all files."""
    files = dict(written)
    for path in sorted(folder.iterdir()):
        if path.name not in written:
            data = path.read_bytes()
            sync_folder(path)
            files[path.name] = Output(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = {"files": {name: files[name].model_dump() for name in sorted(files)}}
    write_json(folder / MANIFEST_NAME, manifest)  # syncs the folder too


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where every file has its size and hash."""
    try:
        files = json.loads((path / MANIFEST_NAME).read_bytes())["files"]
        expected = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in files.items()}
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        return f"its manifest cannot be read ({error})"
    found = {name: (o.bytes, o.sha256) for name, o in hash_outputs(path).items()}
    for name, (size, digest) in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != size:
            return f"{name} holds {found[name][0]:,} bytes, {size:,} were written"
        if found[name][1] != digest:
            return f"{name} changed since it was written"
    for needed in (MODEL_NAME, OPTIMIZER_NAME, STATE_NAME):
        if needed not in expected:
            return f"its manifest does not name {needed}"
    return None


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint; None where there never was one.

    Damaged ones are renamed and reported. Raises UserError where all are damaged: a run must not
    silently start from the beginning.
    """
    checkpoints = list_checkpoints(folder)
    for step, path in reversed(checkpoints):
        damage = find_damage(path)
        if damage is None:
            try:
                return _read(path, step)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                damage = f"it cannot be read ({type(error).__name__}: {error})"
        set_aside(path, damage)
    damaged = sorted(folder.glob("damaged-step-*"))
    if damaged:
        raise UserError(
            "checkpoints-damaged",
            str(folder),
            f"all of its checkpoints are damaged ({len(damaged)})",
            "restore one from a copy, or --redo to start from the beginning",
        )
    return None


def _read(path: Path, step: int) -> Checkpoint:
    """Read a checkpoint whose hashes hold. Raises ValueError where it contradicts itself.

    Hashes find damage after the save; whoever writes a file can write its hash.
    """
    state = json.loads((path / STATE_NAME).read_bytes())
    saved = state.get("progress", {}).get("step", step) if isinstance(state, dict) else None
    if saved != step:
        raise ValueError(f"{STATE_NAME} is of step {saved}")
    return Checkpoint(
        path=path,
        state=state,
        model=load_file(path / MODEL_NAME),
        optimizer=load_file(path / OPTIMIZER_NAME),
    )


def set_aside(path: Path, damage: str) -> None:
    """Rename a damaged checkpoint, and report it."""
    aside = path.with_name(f"damaged-{path.name}")
    if aside.exists() or aside.is_symlink():
        _delete(aside)
    path.rename(aside)
    logger.warning(f"checkpoint {path.name} is damaged: {damage}; moved to {aside}")


def _prune(folder: Path, keep: Callable[[int], bool]) -> None:
    rolling = [path for step, path in list_checkpoints(folder) if not keep(step)]
    for path in rolling[:-NUM_ROLLING_KEPT]:
        _remove_in_background(_hide(path, "removed"))


_removals: list[threading.Thread] = []


def _remove_in_background(path: Path) -> None:
    removal = threading.Thread(target=_remove, args=(path,))
    _removals.append(removal)
    removal.start()


def _remove(path: Path) -> None:
    """Delete a hidden checkpoint; nothing waits for it (20 ms for 100 MB)."""
    try:
        _delete(path)
    except OSError as error:
        logger.warning(f"{path} is no longer needed and could not be deleted ({error})")


def _delete(path: Path) -> None:
    """Delete a folder; of a link to one, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def finish_removals() -> None:
    """Wait until every pruned checkpoint is deleted."""
    while _removals:
        _removals.pop().join()


def _hide(path: Path, why: str) -> Path:
    """Rename a checkpoint to a hidden name: a crash leaves it complete or gone, never in part."""
    hidden = path.with_name(f".{why}-{path.name}")
    if hidden.exists() or hidden.is_symlink():
        _delete(hidden)
    return path.rename(hidden)


def clean_up(folder: Path) -> None:
    """Delete what a crash during a save or a deletion left behind.

    A checkpoint that was about to be replaced by another of the same step is restored if the new
    one is missing.
    """
    finish_removals()
    for path in folder.glob(".replaced-step-*"):
        visible = path.with_name(path.name.removeprefix(".replaced-"))
        if visible.exists() or find_damage(path) is not None:
            _delete(path)
        else:
            path.rename(visible)
    for path in (*folder.glob(".partial-step-*"), *folder.glob(".removed-step-*")):
        _delete(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Output:
    """Write `tensors` to `path`, sync it, and return its size and SHA-256.

    Views of one storage (tied weights) are written once, under the first name. Equal tensors give
    equal bytes. Raises OSError where the disk is full, KeyError for a dtype that has no name.
    """
    plain = _without_tied(tensors)
    # Wide elements first, as the library does: every tensor is then aligned to its own width.
    names = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    header = _header({name: plain[name] for name in names})
    digest = hashlib.sha256(header)
    # The file is closed before the pool: after an error in a write the thread can still end.
    with ThreadPoolExecutor(1) as pool, path.open("wb") as file:
        file.write(header)
        hashed, flushed = [], 0
        for name in names:
            row = plain[name].detach().contiguous().cpu().reshape(-1).view(torch.uint8)
            memory = row.numpy().data
            hashed.append(pool.submit(digest.update, memory))
            file.write(memory)
            if file.tell() - flushed >= FLUSH_BYTES and hasattr(os, "posix_fadvise"):
                # Linux then starts to write these bytes while the rest still follows.
                os.posix_fadvise(file.fileno(), flushed, 0, os.POSIX_FADV_DONTNEED)
                flushed = file.tell()
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
        for done in hashed:
            done.result()
    return Output(bytes=size, sha256=digest.hexdigest())


def _without_tied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[tuple[int, int]] = set()
    plain = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() > 1 and place in seen:
            continue
        seen.add(place)
        plain[name] = tensor
    return plain


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Eight bytes of length, then JSON with the place of each tensor in the file."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def check_disk(
    folder: Path, *, weights_bytes: int, num_permanent: int, num_copies: int = 0
) -> None:
    """Raise UserError where the checkpoints still to come will not fit on the disk.

    Said before the first step: training would otherwise stop at one of the last.
    """
    # A checkpoint holds the weights, two moments of each, and copies such as averages.
    need = (3 + num_copies) * weights_bytes * (NUM_ROLLING_KEPT + 1 + num_permanent) + weights_bytes
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            "disk-too-small",
            str(folder),
            f"checkpoints will need {format_bytes(need)}, {format_bytes(free)} are free",
            "free space, choose another --run-dir, or keep fewer permanent checkpoints",
        )
