"""Answers already computed, so that a killed evaluation goes on and a repeated one is free.

One file per (weights, tokenizer, settings, requests): the name is a hash of all of them, so an
answer can never be served to another model. One line per forward pass, written when it is done;
a line cut off by a kill is dropped and computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teenytinyllama.artifacts.manifest import fingerprint_of
from teenytinyllama.stages.evaluate.prefix_sharing import Request


class Answer(NamedTuple):
    """Log-probability of a continuation, and whether greedy decoding would have written it."""

    logprob: float
    is_greedy: bool


def request_key(request: Request) -> str:
    """A name for one request that depends on its tokens alone."""
    digest = hashlib.blake2b(digest_size=12)
    for ids in request:
        digest.update(np.asarray(ids, dtype="<i8").tobytes())
        digest.update(b"|")
    return digest.hexdigest()


class RequestLog:
    """The answers of one model to one set of requests, on disk and in memory."""

    def __init__(self, folder: Path | None, of: Mapping[str, Any], keys: Iterable[str]) -> None:
        """`of` says what the answers depend on; `folder` None keeps them in memory only."""
        self.answers: dict[str, Answer] = {}
        self._path: Path | None = None
        if folder is None:
            return
        requests = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{fingerprint_of({**of, 'requests': requests})}.jsonl"
        self._load()

    def _load(self) -> None:
        assert self._path is not None
        if not self._path.is_file():
            return
        whole = 0
        data = self._path.read_bytes()
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
            except ValueError:
                break
            self.answers.update({key: Answer(*answer) for key, answer in found.items()})
            whole += len(line)
        if whole < len(data):
            with self._path.open("r+b") as file:
                file.truncate(whole)

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Keep the answers of one forward pass."""
        self.answers.update(answers)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write((json.dumps(answers) + "\n").encode())
