"""Checkpoints that cannot betray: whole or not there, verified by hash, never trusted by name.

    step-0001200/
        config.json, model.safetensors, tokenizer files   a plain Hugging Face model
        optimizer.safetensors                             moments, by parameter name
        state.json                                        step, tokens, energy, log length
        manifest.json                                     sizes and SHA-256; written last

A save writes a hidden folder, syncs every file, writes the manifest, renames, syncs the parent,
and only then prunes older rolling checkpoints. A load takes the newest folder whose every hash
fits; a damaged one is renamed `damaged-...` and kept. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from teenytinyllama.errors import Interrupted, UserError
from teenytinyllama.formats.manifest import (
    MANIFEST_NAME,
    hash_outputs,
    sync_folder,
    write_json,
)
from teenytinyllama.progress import say

STEP_NAME = re.compile(r"step-(\d{7,})")
NUM_ROLLING_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a verified checkpoint holds."""

    path: Path
    state: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def folder_name(step: int) -> str:
    """`step-0001200` for step 1200."""
    return f"step-{step:07d}"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Finished checkpoints by step, oldest first. Hidden and damaged folders are not among them."""
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
    """Write the checkpoint of `step` and prune older ones that `keep` does not name permanent.

    `write_model_files(path)` adds configuration and tokenizer. Raises ValueError for weights that
    are not finite: such a model is never saved. Raises Interrupted where the disk is full; the
    older checkpoints are untouched then.
    """
    for name, tensor in model.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} is not finite at step {step}: not saved")
    final = folder / folder_name(step)
    partial = folder / f".partial-{folder_name(step)}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _save_tensors(partial / "model.safetensors", model)
        _save_tensors(partial / "optimizer.safetensors", optimizer)
        write_json(partial / "state.json", dict(state))
        write_model_files(partial)
        seal(partial)
        _remove(final)
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free
        shutil.rmtree(partial, ignore_errors=True)
        size = sum(t.nbytes for t in (*model.values(), *optimizer.values()))
        reason = f"the checkpoint of step {step} could not be written to {final} ({error})"
        raise Interrupted(f"{reason}; it needs {size:,} bytes, {free:,} are free") from error
    sync_folder(folder)
    _prune(folder, keep)
    return final


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Views of one storage (tied weights) are kept once, under the first name.
    seen: dict[tuple[int, int], str] = {}
    plain = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() > 1 and place in seen:
            continue
        seen[place] = name
        plain[name] = tensor.detach().contiguous().cpu()
    save_file(plain, path, metadata={"format": "pt"})


def seal(folder: Path) -> None:
    """Sync every file of a folder, then write the manifest that vouches for them."""
    for path in sorted(folder.iterdir()):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    files = {name: output.model_dump() for name, output in hash_outputs(folder).items()}
    write_json(folder / MANIFEST_NAME, {"files": files})


def fault_of(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None where every file has its size and hash."""
    try:
        files = json.loads((path / MANIFEST_NAME).read_bytes())["files"]
        expected = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({error})"
    found = {name: (o.bytes, o.sha256) for name, o in hash_outputs(path).items()}
    for name, (size, digest) in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != size:
            return f"{name} holds {found[name][0]:,} bytes, {size:,} were written"
        if found[name][1] != digest:
            return f"{name} changed since it was written"
    for needed in ("model.safetensors", "optimizer.safetensors", "state.json"):
        if needed not in expected:
            return f"its manifest does not name {needed}"
    return None


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there never was one.

    Damaged ones are set aside and named. Raises UserError where all of them are damaged: a run
    must not start again from nothing unasked.
    """
    checkpoints = list_checkpoints(folder)
    for step, path in reversed(checkpoints):
        fault = fault_of(path)
        if fault is None:
            return Checkpoint(
                path=path,
                state=json.loads((path / "state.json").read_bytes()),
                model=load_file(path / "model.safetensors"),
                optimizer=load_file(path / "optimizer.safetensors"),
            )
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        say(f"checkpoint of step {step} is damaged: {fault}. Set aside in {aside}")
    damaged = sorted(folder.glob("damaged-step-*"))
    if damaged:
        raise UserError(
            "checkpoints-damaged",
            str(folder),
            f"none of its checkpoints is whole ({len(damaged)} damaged)",
            "restore one from a copy, or --redo to start anew",
        )
    return None


def _prune(folder: Path, keep: Callable[[int], bool]) -> None:
    rolling = [path for step, path in list_checkpoints(folder) if not keep(step)]
    for path in rolling[:-NUM_ROLLING_KEPT]:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint so that a crash leaves it whole or out of sight, never half there."""
    if path.exists():
        hidden = path.with_name(f".removed-{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden)


def clean_up(folder: Path) -> None:
    """Remove what a crash inside a save or a removal left behind."""
    for path in (*folder.glob(".partial-step-*"), *folder.glob(".removed-step-*")):
        shutil.rmtree(path)
