"""The look at everything before anything leaves: secrets, personal folders, code, damaged files.

All files are read, documents inside their compression too. What is found is said at once, each
with its place; a secret is named by its kind and a fingerprint, never shown. One that was looked
at and is none (an example key in a manual) can be accepted by its fingerprint.
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
from teenytinyllama.publishing.repositories import Item, Repository
from teenytinyllama.redaction import find_personal_folders, find_secrets

TEXT_SUFFIXES = (".json", ".md", ".toml", ".txt", ".jinja", ".yaml")
KNOWN_SUFFIXES = (*TEXT_SUFFIXES, ".safetensors", ".gguf", ".model", ".jsonl.zst")
PYTHON_INSIDES = ("__class__", "__globals__", "__init__", "__import__", "__subclasses__", "|attr")
MAX_TEXT_BYTES = 64 << 20
MAX_SHOWN = 20
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


@dataclass(frozen=True)
class Finding:
    """Something that must not leave: where, what, and its fingerprint where it is a secret."""

    where: str
    what: str
    fingerprint: str = ""


def scan(repositories: Sequence[Repository], accepted: Collection[str]) -> int:
    """Read every file once; returns how many. Raises UserError that lists what was found."""
    items = {
        (item.source if isinstance(item.source, Path) else f"{repository.id}/{item.name}"): item
        for repository in repositories
        for revision in repository.revisions
        for item in revision.items
    }
    found: list[Finding] = []
    total = sum(item.size_bytes for item in items.values()) / 1e6
    with Progress("publish: scan", total=total, unit="MB") as progress:
        for place, item in items.items():
            found += [
                f
                for f in _look_at(str(place), item)
                if f.fingerprint not in accepted or not f.fingerprint
            ]
            progress.advance(item.size_bytes / 1e6)
    if found:
        raise _refusal(found)
    return len(items)


def _refusal(found: Sequence[Finding]) -> UserError:
    shown = [f"{f.where}: {f.what}" for f in found[:MAX_SHOWN]]
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    what = f"{len(found)} findings: {'; '.join(shown)}{more}"
    prints = [f.fingerprint for f in found if f.fingerprint]
    fix = "remove them and run the stage again"
    if len(prints) == len(found):
        fix += f"; for one that is no secret, --accept {prints[0]}"
    return UserError("publish-unsafe", "nothing was sent", what, fix)


def _look_at(where: str, item: Item) -> Iterator[Finding]:
    name = item.name
    if name.endswith(PICKLED_SUFFIXES) or _head(item).startswith(PICKLE_STARTS):
        yield Finding(where, "is pickled or an archive: who loads it may run any code")
    elif name.endswith(CODE_SUFFIXES):
        yield Finding(where, "is code")
    elif not name.endswith(KNOWN_SUFFIXES):
        yield Finding(where, "is of a kind that is not published")
    elif name.endswith(".jsonl.zst"):
        yield from _in_documents(where, item)
    else:
        try:
            for text in _texts(item):
                yield from _in_text(where, text)
        except UserError as error:
            yield Finding(where, error.what)


def _head(item: Item) -> bytes:
    if isinstance(item.source, bytes):
        return item.source[:8]
    with item.source.open("rb") as file:
        return file.read(8)


def _texts(item: Item) -> Iterator[str]:
    """The words in a file: all of a text, the header of weights, the pieces of a tokenizer."""
    if isinstance(item.source, bytes):
        yield item.source.decode("utf-8")
        return
    if item.name.endswith(".safetensors"):
        yield json.dumps(read_safetensors_header(item.source).get("__metadata__", {}))
    elif item.name.endswith(".gguf"):
        yield "\n".join(read_gguf_texts(item.source))
    elif item.size_bytes > MAX_TEXT_BYTES:
        raise UserError("file-large", item.name, f"{item.size_bytes:,} bytes are no text", "")
    else:
        if item.name.endswith(".json"):
            check_no_code(item.source)
        yield item.source.read_bytes().decode("utf-8", "replace")


def _in_documents(where: str, item: Item) -> Iterator[Finding]:
    """Findings in the documents of a shard: secrets alone, a folder's name is ordinary text."""
    assert isinstance(item.source, Path), "documents are files"
    for number, row in enumerate(read_json_lines(item.source), start=1):
        for value in row.values():
            if isinstance(value, str):
                for secret in find_secrets(value):
                    words = f"{secret.kind} (fingerprint {secret.fingerprint})"
                    yield Finding(f"{where}:{number}", words, secret.fingerprint)


def _in_text(where: str, text: str) -> Iterator[Finding]:
    # A template of ours reads the messages; one that asks for Python's insides wants out.
    if "{%" in text or "{{" in text:
        for name in PYTHON_INSIDES:
            if name in text:
                yield Finding(where, f"holds a template that reaches for {name}")
    for secret in find_secrets(text):
        words = f"{secret.kind} (fingerprint {secret.fingerprint})"
        yield Finding(where, words, secret.fingerprint)
    for folder in find_personal_folders(text):
        yield Finding(where, f"names a person's folder ({folder})")
