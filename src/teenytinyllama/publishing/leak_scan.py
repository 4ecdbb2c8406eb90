"""Scan all files before an upload: secrets, personal folders, code, damaged files.

Every file is read, compressed documents too. All findings are listed with their place; a secret is
named by its kind and a fingerprint, never shown. One that was checked and is not a secret (an
example key in a manual) can be accepted by its fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from teenytinyllama.artifacts.documents import read_json_lines
from teenytinyllama.artifacts.model_folder import (
    CODE_SUFFIXES,
    PICKLED_SUFFIXES,
    check_no_code,
    read_safetensors_header,
)
from teenytinyllama.errors import UserError
from teenytinyllama.progress import Progress
from teenytinyllama.publishing.gguf_header import read_gguf_texts
from teenytinyllama.publishing.repositories import HubFile, Repository
from teenytinyllama.redaction import find_personal_folders, find_secrets

TEXT_SUFFIXES = (".json", ".md", ".toml", ".txt", ".jinja", ".yaml")
KNOWN_SUFFIXES = (*TEXT_SUFFIXES, ".safetensors", ".gguf", ".model", ".jsonl.zst")
PYTHON_INTERNALS = ("__class__", "__globals__", "__init__", "__import__", "__subclasses__", "|attr")
MAX_TEXT_BYTES = 64 << 20
MAX_SHOWN = 20
PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


@dataclass(frozen=True)
class LeakFinding:
    """Something that must not be published; a secret has a fingerprint."""

    where: str
    what: str
    fingerprint: str = ""


def scan(repositories: Sequence[Repository], accepted: Collection[str]) -> int:
    """Scan every file; returns how many. Raises UserError that lists all findings."""
    files = {
        (file.source if isinstance(file.source, Path) else f"{repository.id}/{file.name}"): file
        for repository in repositories
        for revision in repository.revisions
        for file in revision.files
    }
    found: list[LeakFinding] = []
    total = sum(file.size_bytes for file in files.values()) / 1e6
    with Progress("publish: scan", total=total, unit="MB") as progress:
        for place, file in files.items():
            found += [
                finding
                for finding in _scan_file(str(place), file)
                if not finding.fingerprint or finding.fingerprint not in accepted
            ]
            progress.advance(file.size_bytes / 1e6)
    if found:
        raise _error_of(found)
    return len(files)


def _error_of(found: Sequence[LeakFinding]) -> UserError:
    shown = [f"{f.where}: {f.what}" for f in found[:MAX_SHOWN]]
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    what = f"{len(found)} findings: {'; '.join(shown)}{more}"
    prints = [f.fingerprint for f in found if f.fingerprint]
    fix = "remove them and run the stage again"
    if len(prints) == len(found):
        fix += f"; for one that is not a secret, --accept {prints[0]}"
    return UserError("publish-unsafe", "nothing was sent", what, fix)


def _scan_file(where: str, file: HubFile) -> Iterator[LeakFinding]:
    name = file.name
    if name.endswith(PICKLED_SUFFIXES) or _first_bytes(file).startswith(PICKLE_MAGIC):
        yield LeakFinding(where, "is pickled or an archive: loading it may run any code")
    elif name.endswith(CODE_SUFFIXES):
        yield LeakFinding(where, "is code")
    elif not name.endswith(KNOWN_SUFFIXES):
        yield LeakFinding(where, "has a file type that is not published")
    elif name.endswith(".jsonl.zst"):
        yield from _scan_documents(where, file)
    else:
        try:
            for text in _texts(file):
                yield from _scan_text(where, text)
        except UserError as error:
            yield LeakFinding(where, error.what)


def _first_bytes(file: HubFile) -> bytes:
    if isinstance(file.source, bytes):
        return file.source[:8]
    with file.source.open("rb") as stream:
        return stream.read(8)


def _texts(file: HubFile) -> Iterator[str]:
    """The text in a file: all of a text file, the metadata of weights, a GGUF file's strings."""
    if isinstance(file.source, bytes):
        yield file.source.decode("utf-8")
    elif file.name.endswith(".safetensors"):
        yield json.dumps(read_safetensors_header(file.source).get("__metadata__", {}))
    elif file.name.endswith(".gguf"):
        yield "\n".join(read_gguf_texts(file.source))
    elif file.size_bytes > MAX_TEXT_BYTES:
        what = f"{file.size_bytes:,} bytes are too many for a text file"
        raise UserError("file-large", file.name, what, "")
    else:
        if file.name.endswith(".json"):
            check_no_code(file.source)
        yield file.source.read_bytes().decode("utf-8", "replace")


def _scan_documents(where: str, file: HubFile) -> Iterator[LeakFinding]:
    """Secrets in a shard's documents; a folder's name is ordinary text there."""
    assert isinstance(file.source, Path), "documents are files"
    for number, row in enumerate(read_json_lines(file.source), start=1):
        for value in row.values():
            if isinstance(value, str):
                yield from _scan_secrets(f"{where}:{number}", value)


def _scan_text(where: str, text: str) -> Iterator[LeakFinding]:
    # Our chat template reads messages only; one that uses Python's internals breaks out of it.
    if "{%" in text or "{{" in text:
        for name in PYTHON_INTERNALS:
            if name in text:
                yield LeakFinding(where, f"contains a template that uses {name}")
    yield from _scan_secrets(where, text)
    for folder in find_personal_folders(text):
        yield LeakFinding(where, f"names a person's folder ({folder})")


def _scan_secrets(where: str, text: str) -> Iterator[LeakFinding]:
    for secret in find_secrets(text):
        what = f"{secret.kind} (fingerprint {secret.fingerprint})"
        yield LeakFinding(where, what, secret.fingerprint)
