"""Results kept on disk, so that a killed evaluation resumes and a repeated one is free.

`load_or_compute` keeps a stage's JSON result beside the identity it depends on (weights, tokenizer,
texts, settings). `LoglikelihoodCache` keeps the model's answers: one file for each combination of
weights, tokenizer, settings and requests, whose name is a hash of all of them, so that a cached
value never serves another model. Floats are written so that reading them gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.artifacts.manifest import (
    fingerprint_files,
    fingerprint_of,
    read_manifest,
    write_json,
)
from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.stages.evaluate.prefix_sharing import LoglikelihoodRequest


def load_or_compute(
    path: Path,
    depends_on: dict[str, Any],
    compute: Callable[[], dict[str, Any]],
    processes: ProcessGroup = ALONE,
) -> dict[str, Any]:
    """The result in `path` if it has the same identity, else compute and write it.

    With several processes the leader reads and writes; all compute.
    """
    identity = fingerprint_of(depends_on)
    found = processes.broadcast(_read(path) if processes.is_leader else None)
    if found.pop("identity", None) == identity:
        return found
    result = compute()
    if processes.is_leader:
        write_json(path, {**result, "identity": identity})
    return result


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not written by us: our files are replaced atomically
        return {}
    return found if isinstance(found, dict) else {}


def documents_fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 over everything that a score takes from the documents."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.id, document.source, document.text]).encode())
    return digest.hexdigest()


def text_fingerprint(documents: Iterable[Document]) -> str:
    """Short SHA-256 over the texts alone, in any order: the same for two runs' same text."""
    hashes = (hashlib.sha256(document.text.encode()).digest() for document in documents)
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()[:16]


def stage_fingerprint(stage_dir: Path) -> str:
    """Fingerprint of a stage's output by its manifest, so that a copy of the run has the same.

    Without a manifest: of names, sizes and times of its training files.
    """
    manifest = read_manifest(stage_dir)
    if manifest is None:
        return fingerprint_files(stage_dir.glob("*train*"))
    return manifest.content_fingerprint()


class Loglikelihood(NamedTuple):
    """Log-probability of a continuation, and whether greedy decoding would produce it."""

    logprob: float
    is_greedy: bool


def request_key(request: LoglikelihoodRequest) -> str:
    """Hash of one request's tokens."""
    digest = hashlib.blake2b(digest_size=12)
    for ids in request:
        digest.update(np.asarray(ids, dtype="<i8").tobytes())
        digest.update(b"|")
    return digest.hexdigest()


class LoglikelihoodCache:
    """The results of one model for one set of requests by `request_key`, in memory and on disk.

    One line is appended after each forward pass; a line that a kill cut off is computed again.
    """

    def __init__(
        self, folder: Path | None, depends_on: Mapping[str, Any], keys: Iterable[str]
    ) -> None:
        """`keys` are those of all requests; `folder` None keeps results in memory only."""
        self.results: dict[str, Loglikelihood] = {}
        self._path: Path | None = None
        if folder is None:
            return
        requests = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{fingerprint_of({**depends_on, 'requests': requests})}.jsonl"
        if self._path.is_file():
            self._load(self._path)

    def _load(self, path: Path) -> None:
        whole = 0
        data = path.read_bytes()
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
            except ValueError:
                break
            self.results.update({key: Loglikelihood(*value) for key, value in found.items()})
            whole += len(line)
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)

    def add(self, results: Mapping[str, Loglikelihood]) -> None:
        """Keep the results of one forward pass."""
        self.results.update(results)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write((json.dumps(results) + "\n").encode())
