"""One raw record to a document with text, id, licence and source, or the reason why not."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from teenytinyllama.artifacts.conversations import (
    Conversation,
    ConversationError,
    Message,
    read_conversation,
)
from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.corpus_records import RawItem
from teenytinyllama.stages.corpus.readers.common_crawl import text_of_page
from teenytinyllama.stages.corpus.text_cleaning import clean

MAX_ID_CHARACTERS = 512
NO_LICENSE = frozenset({"", "unknown", "none", "null", "n/a", "na", "?", "other"})
LICENSE_MISSING, TEXT_MISSING = "license-missing", "text-missing"
TYPE_NAMES = {int: "number", float: "number", bool: "boolean", list: "list", dict: "object"}
# A line's `source` that is an address or a path says where a text is from, not what it is part of.
SOURCE_NAME = re.compile(r"[\w][\w .+()-]{0,63}")
Form = Literal["NFC", "NFKC", "none"]


class UnusableError(Exception):
    """A record that cannot be used, with the reason as quarantine names it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def document_of(
    record: dict[str, Any], item: RawItem, source: Source, form: Form, notes: Counter[str]
) -> tuple[Document, int]:
    """The record as a document, and the bytes of its text as read.

    The text is empty for a page without main text. Raises UnusableError where it has none to use.
    """
    url = _string(record.get(source.url_key))
    messages: Conversation = []
    if source.shape == "conversation":
        messages = _messages_of(record, source)
        raw = "\n\n".join(message["content"] for message in messages)
    elif isinstance(record.get("html"), bytes):
        raw = text_of_page(record["html"], url)
    else:
        raw = text_of(record, source.text_key)
    license_ = str(record.get("license") or "").strip()
    if license_.lower() in NO_LICENSE:
        license_ = source.license
    if license_.lower() in NO_LICENSE:
        raise UnusableError(LICENSE_MISSING)
    text = clean(raw, form, notes)
    if raw and not text.strip():
        raise UnusableError("text-blank")
    name = record.get("source")
    named = name if isinstance(name, str) and SOURCE_NAME.fullmatch(name) else ""
    document = Document(
        id=id_of(record.get(source.id_key), item, source),
        text=text,
        source=source.name or named or stem_of(item.file, source),
        license=license_,
        url=url,
        messages=[_cleaned(message, form) for message in messages],
    )
    return document, len(raw.encode("utf-8")) if raw else item.num_bytes


def _messages_of(record: dict[str, Any], source: Source) -> Conversation:
    try:
        return read_conversation(record, source)
    except ConversationError as error:
        raise UnusableError("no-conversation", str(error)) from error


def _cleaned(message: Message, form: Literal["NFC", "NFKC", "none"]) -> Message:
    """The message under the same rules as any text; what they touch is counted once, there."""
    return {"role": message["role"], "content": clean(message["content"], form, Counter())}


def digest_of(text: str) -> bytes:
    r"""128-bit hash of a text's words: white space does not make a text another.

    >>> digest_of("um  dois\n") == digest_of("um dois")
    True
    """
    words = " ".join(text.split()).encode("utf-8", "replace")
    return hashlib.blake2b(words, digest_size=16).digest()


def stem_of(file: str, source: Source) -> str:
    """Name of a source that has none: its file's name without suffixes, or its title."""
    return Path(file).name.split(".")[0] or source.title if source.kind == "files" else source.title


def id_of(given: object, item: RawItem, source: Source) -> str:
    """The record's own id where it has a usable one, else its place: `file:line`."""
    if isinstance(given, int | str) and not isinstance(given, bool):
        text = _string(str(given))
        if 0 < len(text) <= MAX_ID_CHARACTERS:
            return text
    return f"{stem_of(item.file, source)}:{item.line}"


def _string(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(c for c in value if c.isprintable() and not "\ud800" <= c <= "\udfff")


def text_of(record: dict[str, Any], key: str) -> str:
    """The record's text. Raises UnusableError with the reason where there is none to use."""
    if key not in record:
        raise UnusableError(TEXT_MISSING, f"keys: {', '.join(map(str, list(record)[:12]))}")
    text = record[key]
    if text is None:
        raise UnusableError("text-null")
    if not isinstance(text, str):
        raise UnusableError(f"text-{TYPE_NAMES.get(type(text), 'object')}")
    if not text:
        raise UnusableError("text-empty")
    if not text.strip():
        raise UnusableError("text-blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableError("lone-surrogate", f"at character {error.start}") from error
    return text


def parse(item: RawItem, kind: str, text_key: str, notes: Counter[str]) -> dict[str, Any]:
    """One raw item as an object with fields. Raises UnusableError where it is none."""
    if item.damage:
        raise UnusableError(item.damage, item.detail)
    if isinstance(item.data, dict):
        return item.data
    try:
        text = item.data.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {item.data[error.start]:#04x} at {error.start}"
        raise UnusableError("invalid-utf8", detail) from error
    if kind == "text":
        return {text_key: text}
    doubled: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen = Counter(key for key, _ in pairs)
            doubled.extend(key for key, count in seen.items() if count > 1)
        return made

    try:
        record = json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise UnusableError("nesting-too-deep") from error
    except ValueError as error:
        raise UnusableError("invalid-json", str(error)) from error
    if not isinstance(record, dict):
        raise UnusableError(
            "not-an-object", f"a {TYPE_NAMES.get(type(record), type(record).__name__)}"
        )
    if doubled:
        notes["duplicate-keys"] += 1
        if text_key in doubled:
            raise UnusableError("duplicate-text-key")
    return record
