"""From a raw record to a document with text, id, licence and source.

`ParseRecord` and `ExtractText` quarantine what cannot be used, with the reason; `SourceSelection`
and `MainTextRequired` drop what is not wanted.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.conversation_layouts import (
    ConversationError,
    read_conversation,
    unused_fields,
)
from teenytinyllama.artifacts.conversations import Conversation
from teenytinyllama.artifacts.documents import Document
from teenytinyllama.artifacts.records import is_nested_too_deeply, with_messages
from teenytinyllama.licenses import UNKNOWN
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    DocumentStep,
    RawItem,
    source_of,
    stem_of,
)
from teenytinyllama.stages.corpus.readers.common_crawl import MAX_TAGS, num_tags, text_of_page
from teenytinyllama.stages.corpus.readers.office_documents import DocumentError, text_of_document

MAX_ID_CHARACTERS = MAX_LICENSE_CHARACTERS = 512
NO_LICENSE = frozenset({"", "unknown", "none", "null", "n/a", "na", "?", "other"})
LICENSE_MISSING, TEXT_MISSING = "license-missing", "text-missing"
NO_MAIN_TEXT, NOT_SELECTED = "no-main-text", "not-selected"
TYPE_NAMES = {int: "number", float: "number", bool: "boolean", list: "list", dict: "object"}
# A line's `source` that is a URL or a path says where a text is from, not what it is part of.
SOURCE_NAME = re.compile(r"[\w][\w .+()-]{0,63}")


class UnusableError(Exception):
    """A record that cannot be used, with the reason that goes to quarantine."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class ParseRecord(DocumentStep):
    """The bytes of a record to an object with fields."""

    def apply(self, batch: DocumentBatch) -> None:
        """Parse every record."""
        for one in batch.remaining():
            try:
                one.record = parse(one.item, batch.kind, batch.source.text_key, batch.notes)
            except UnusableError as error:
                batch.quarantine(one, error.reason, error.detail)


class ExtractText(DocumentStep):
    """The text in the record's fields, its messages or its HTML, with id, licence and source."""

    def apply(self, batch: DocumentBatch) -> None:
        """Give every record its document."""
        for one in batch.remaining():
            try:
                _extract(one, batch.kind, batch.source, batch.notes)
            except UnusableError as error:
                batch.quarantine(one, error.reason, error.detail)


class SourceSelection(DocumentStep):
    """Drops records that the source does not select by their fields (`only` of the source)."""

    def apply(self, batch: DocumentBatch) -> None:
        """Drop what is not selected."""
        for one in batch.remaining():
            if not batch.source.selects(one.record):
                batch.drop(one, NOT_SELECTED)


class MainTextRequired(DocumentStep):
    """Drops HTML pages in which no main text was found."""

    def apply(self, batch: DocumentBatch) -> None:
        """Drop pages without text."""
        for one in batch.remaining():
            if not one.text:
                batch.drop(one, NO_MAIN_TEXT)


def _extract(one: BatchDocument, kind: str, source: Source, notes: Counter[str]) -> None:
    record = one.record
    url = _printable(record.get(source.url_key))
    messages: Conversation = []
    if source.shape == "conversation":
        messages = _messages_of(record, source)
        notes.update(_notes_of(record, source, messages))
        messages = [{"role": m["role"], "content": m["content"]} for m in messages]
        text = _encodable("\n\n".join(message["content"] for message in messages))
    elif kind == "document":
        text = _text_of_document(Path(one.item.file))
    elif isinstance(record.get("html"), bytes | str):
        if (found := num_tags(record["html"])) > MAX_TAGS:
            raise UnusableError("page-too-many-tags", f"{found:,}, at most {MAX_TAGS:,} are read")
        text = text_of_page(record["html"], url)
    else:
        text = text_of(record, source.text_key)
    license_ = license_of(record.get("license"), source)
    name = record.get("source")
    named = name if isinstance(name, str) and SOURCE_NAME.fullmatch(name) else ""
    one.document = Document(
        id=id_of(record.get(source.id_key), one.item, source),
        text=text,
        source=source.name or named or source_of(one.item.file, kind, source),
        license=license_,
        url=url,
        messages=messages,
    )
    one.num_bytes = len(text.encode("utf-8")) if text else one.item.num_bytes


def _text_of_document(path: Path) -> str:
    try:
        text = text_of_document(path)
    except DocumentError as error:
        raise UnusableError(error.reason, error.detail) from error
    if not text:
        raise UnusableError("document-without-text")
    return text


def _messages_of(record: dict[str, Any], source: Source) -> Conversation:
    try:
        return read_conversation(record, source)
    except ConversationError as error:
        raise UnusableError("no-conversation", str(error)) from error


def license_of(given: object, source: Source) -> str:
    """The record's own licence, else that of its source. Raises UnusableError where none holds."""
    text = "" if given is None else str(given)
    license_ = _printable(_encodable(text)).strip()
    if len(license_) > MAX_LICENSE_CHARACTERS:
        raise UnusableError("license-too-long", f"{len(license_)} characters")
    if license_.lower() in NO_LICENSE:
        license_ = source.license.strip()
    # A recipe may say that nobody knows it: the text can be trained on, and never published.
    if license_.lower() in NO_LICENSE - {UNKNOWN}:
        raise UnusableError(LICENSE_MISSING)
    return license_


def _notes_of(record: dict[str, Any], source: Source, messages: Conversation) -> list[str]:
    """What of a conversation pre-training does not keep: fields with text, answers of weight 0."""
    ignored = (source.id_key, source.url_key, *source.only)
    unused = [f"field-not-used-{name}" for name in unused_fields(record, messages, ignored)]
    return unused + ["answer-of-weight-0"] * sum("weight" in message for message in messages)


def id_of(given: object, item: RawItem, source: Source) -> str:
    """The record's own id where it has a usable one, else its place: `file:line`."""
    if isinstance(given, int | str) and not isinstance(given, bool):
        text = _printable(str(given))
        if 0 < len(text) <= MAX_ID_CHARACTERS:
            return text
    return f"{stem_of(item.file, source)}:{item.line}"


def _printable(value: object) -> str:
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
    return _encodable(text)


def _encodable(text: str) -> str:
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
        text = item.data.removeprefix(BOM_UTF8).decode("utf-8")
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

    record = with_messages(_json_of(text, unique))
    if not isinstance(record, dict):
        raise UnusableError(
            "not-an-object", f"a {TYPE_NAMES.get(type(record), type(record).__name__)}"
        )
    if doubled:
        notes["duplicate-keys"] += 1
        if text_key in doubled:
            raise UnusableError("duplicate-text-key")
    return record


def _json_of(text: str, pairs_hook: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> Any:
    """A value of JSON. Raises UnusableError where it is none, or is nested too deeply."""
    try:
        value = json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError as error:
        raise UnusableError("nesting-too-deep") from error
    except ValueError as error:
        raise UnusableError("invalid-json", str(error)) from error
    if is_nested_too_deeply(value):
        raise UnusableError("nesting-too-deep")
    return value
