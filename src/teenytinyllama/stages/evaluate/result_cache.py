"""Figures already worked out, so that a killed evaluation does not work them out again.

A file of figures carries the `identity` that they depend on: weights, tokenizer, texts, settings.
Where it is another one, the file is as good as not there. Numbers are written so that reading them
gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.artifacts.manifest import (
    fingerprint_files,
    fingerprint_of,
    read_manifest,
    write_json,
)


def keep(path: Path, of: dict[str, Any], work_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures in `path` where they are `of` the same, else worked out anew and written."""
    identity = fingerprint_of(of)
    found = _read(path)
    if found.pop("identity", None) == identity:
        return found
    metrics = work_out()
    write_json(path, {**metrics, "identity": identity})
    return metrics


def _read(path: Path) -> dict[str, Any]:
    """Empty where there is no file, or none of ours."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # written by somebody else: our own files are there whole or not at all
        return {}
    return found if isinstance(found, dict) else {}


def identity_of(documents: Iterable[Document]) -> str:
    """SHA-256 over all that a score takes from the documents."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.id, document.source, document.text]).encode())
    return digest.hexdigest()


def made_in(stage_dir: Path) -> str:
    """Fingerprint of what a stage made, by its manifest: a copy of the run has the same.

    Where a stage left no manifest, that of its training files' names, sizes and times.
    """
    manifest = read_manifest(stage_dir)
    if manifest is None:
        return fingerprint_files(stage_dir.glob("*train*"))
    return manifest.content_fingerprint()
