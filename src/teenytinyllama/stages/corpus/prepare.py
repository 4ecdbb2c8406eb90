"""What a worker does with a batch: parse, check, clean, judge. Pure: same batch, same result."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zstandard

from teenytinyllama.formats.conversation_files import Conversation, Unusable, conversation_of
from teenytinyllama.formats.conversations import Message
from teenytinyllama.formats.documents import Document, row_of
from teenytinyllama.recipe import CorpusSettings, Source
from teenytinyllama.stages.corpus.cleaning import clean
from teenytinyllama.stages.corpus.decontaminate import Decontaminator
from teenytinyllama.stages.corpus.filters import Chain
from teenytinyllama.stages.corpus.paragraphs import paragraph_hashes
from teenytinyllama.stages.corpus.pii import PersonalData
from teenytinyllama.stages.corpus.records import (
    Entry,
    Fault,
    Prepared,
    RawBatch,
    RawItem,
    make_fault,
)
from teenytinyllama.stages.corpus.shingles import Signer

MAX_ID_CHARACTERS = 512
NO_LICENSE = frozenset({"", "unknown", "none", "null", "n/a", "na", "?", "other"})
PERSONAL_DATA, CONTAMINATED = "personal-data:", "contaminated:"
LICENSE_MISSING, TEXT_MISSING = "license-missing", "text-missing"
TYPE_NAMES = {int: "number", float: "number", bool: "boolean", list: "list", dict: "object"}


class _UnusableError(Exception):
    """A record that cannot be used, with the reason as quarantine names it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class _Candidate:
    """A good record on its way through the rules."""

    document: Document
    num_bytes: int
    reason: str = ""
    band_keys: bytes = b""
    paragraphs: bytes = b""


class Preparer:
    """Turns raw batches into prepared ones. One per worker process."""

    def __init__(self, settings: CorpusSettings, language: str) -> None:
        self.settings, self.language = settings, language
        self._chain = Chain(settings.filters, language) if settings.filters else None
        self._decontaminator = Decontaminator(settings) if settings.decontaminate else None
        self._personal_data = PersonalData(language) if settings.replace_personal_data else None
        self._signer = Signer(settings.near_duplicates) if settings.near_duplicates else None
        self._pack = zstandard.ZstdCompressor(level=1)

    def prepare(self, batch: RawBatch) -> Prepared:
        """Every record of the batch as an entry or a fault, in order; texts packed in a frame."""
        source = self.settings.sources[batch.source]
        notes: Counter[str] = Counter()
        faults: list[Fault] = []
        kept: list[_Candidate] = []
        first_keys: tuple[str, ...] = ()
        for item in batch.items:
            try:
                record = parse(item, batch.kind, source.text_key, notes)
                first_keys = first_keys or tuple(record)
                kept.append(self._candidate(item, record, source, notes))
            except _UnusableError as bad:
                title = source.name or stem_of(item.file, source)
                faults.append(make_fault(item, title, bad.reason, bad.detail))
        self._judge(kept, source)
        self._decontaminate([k for k in kept if not k.reason], notes)
        remaining = [k for k in kept if not k.reason]
        self._replace_personal_data(remaining, source, notes)
        self._sign(remaining)
        self._hash_paragraphs(remaining, source)
        lines = [json.dumps(row_of(k.document), ensure_ascii=False) for k in kept]
        return Prepared(
            source=batch.source,
            frame=self._pack.compress("\n".join(lines).encode("utf-8")),
            entries=[
                Entry(
                    digest=digest_of(k.document.text),
                    id_digest=digest_of(k.document.id)[:8],
                    source=k.document.source,
                    license=k.document.license,
                    num_bytes=k.num_bytes,
                    reason=k.reason,
                    band_keys=k.band_keys,
                    paragraphs=k.paragraphs,
                )
                for k in kept
            ],
            faults=faults,
            notes=notes,
            first_keys=first_keys,
            last=batch.last,
        )

    def _candidate(
        self, item: RawItem, record: dict[str, Any], source: Source, notes: Counter[str]
    ) -> _Candidate:
        messages: list[Message] = []
        if source.shape == "conversation":
            messages = _messages_of(record)
            raw = "\n\n".join(message["content"] for message in messages)
        else:
            raw = text_of(record, source.text_key)
        num_bytes = len(raw.encode("utf-8"))
        license_ = str(record.get("license") or "").strip()
        if license_.lower() in NO_LICENSE:
            license_ = source.license
        if license_.lower() in NO_LICENSE:
            raise _UnusableError(LICENSE_MISSING)
        text = clean(raw, self.settings.unicode_form, notes)
        if not text.strip():
            raise _UnusableError("text-blank")
        name = record.get("source")
        named = name if isinstance(name, str) and 0 < len(name) <= 200 else ""
        document = Document(
            id=id_of(record.get(source.id_key), item, source),
            text=text,
            source=source.name or named or stem_of(item.file, source),
            license=license_,
            url=_string(record.get(source.url_key)),
            messages=[_cleaned(m, self.settings.unicode_form) for m in messages],
        )
        return _Candidate(document, num_bytes)

    def _judge(self, kept: list[_Candidate], source: Source) -> None:
        """Give each document the reason that drops it, if any, and its scores.

        Only prose is: the storybook is written by this package and its tales are short, and a
        good answer may be one word.
        """
        judged = []
        for candidate in kept:
            if candidate.document.num_bytes < self.settings.min_document_bytes:
                candidate.reason = "too-short"
            elif self._chain is not None and _is_prose(source):
                judged.append(candidate)
        if self._chain is None or not judged:
            return
        verdicts = self._chain.judge(
            [c.document.text for c in judged], urls=[c.document.url for c in judged]
        )
        for candidate, verdict in zip(judged, verdicts, strict=True):
            candidate.reason = verdict.reason or ""
            candidate.document.scores = verdict.scores
            if verdict.text is not None:
                candidate.document.text = verdict.text

    def _decontaminate(self, kept: list[_Candidate], notes: Counter[str]) -> None:
        """Cut out, or drop, what the evaluation tasks ask about; counted by task."""
        if self._decontaminator is None:
            return
        found = self._decontaminator.tasks_in([c.document.text for c in kept])
        for candidate, tasks in zip(kept, found, strict=True):
            if not tasks:
                continue
            notes.update({CONTAMINATED + name: 1 for name in tasks})
            document = candidate.document
            text, num_lines = self._decontaminator.cut(document.text)
            must_drop = self.settings.decontaminate_by == "drop" or document.messages
            if must_drop or not text.strip():
                candidate.reason = "contaminated"
                continue
            document.text = text
            notes["contaminated-lines-cut"] += num_lines
            if document.num_bytes < self.settings.min_document_bytes:
                candidate.reason = "contaminated"

    def _replace_personal_data(
        self, kept: list[_Candidate], source: Source, notes: Counter[str]
    ) -> None:
        if self._personal_data is None or source.kind == "storybook":
            return
        found: Counter[str] = Counter()
        for candidate in kept:
            document = candidate.document
            document.text = self._personal_data.replace(document.text, found)
            for message in document.messages:
                message["content"] = self._personal_data.replace(message["content"], Counter())
        notes.update({PERSONAL_DATA + kind: count for kind, count in found.items()})

    def _sign(self, kept: list[_Candidate]) -> None:
        """Give each document that is still kept the keys that near duplicates share."""
        if self._signer is None or not kept:
            return
        keys = self._signer.band_keys([c.document.text for c in kept])
        for candidate, row in zip(kept, keys, strict=True):
            candidate.band_keys = row.tobytes() if row[0] else b""

    def _hash_paragraphs(self, kept: list[_Candidate], source: Source) -> None:
        """Give each document the hashes of its lines that are long enough to count."""
        settings = self.settings.repeated_paragraphs
        if settings is None or not _is_prose(source):
            return
        for candidate in kept:
            hashes = paragraph_hashes(candidate.document.text, settings.min_characters)
            candidate.paragraphs = array("Q", filter(None, hashes)).tobytes()


def _is_prose(source: Source) -> bool:
    """Whether rules for found text hold for a source."""
    return source.kind != "storybook" and source.shape == "text"


def _messages_of(record: dict[str, Any]) -> Conversation:
    try:
        return conversation_of(record)
    except Unusable as error:
        raise _UnusableError("no-conversation", str(error)) from error


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
    """The record's text. Raises _UnusableError with the reason where there is none to use."""
    if key not in record:
        raise _UnusableError(TEXT_MISSING, f"keys: {', '.join(map(str, list(record)[:12]))}")
    text = record[key]
    if text is None:
        raise _UnusableError("text-null")
    if not isinstance(text, str):
        raise _UnusableError(f"text-{TYPE_NAMES.get(type(text), 'object')}")
    if not text:
        raise _UnusableError("text-empty")
    if not text.strip():
        raise _UnusableError("text-blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _UnusableError("lone-surrogate", f"at character {error.start}") from error
    return text


def parse(item: RawItem, kind: str, text_key: str, notes: Counter[str]) -> dict[str, Any]:
    """One raw item as an object with fields. Raises _UnusableError where it is none."""
    if item.damage:
        raise _UnusableError(item.damage, item.detail)
    if isinstance(item.data, dict):
        return item.data
    try:
        text = item.data.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {item.data[error.start]:#04x} at {error.start}"
        raise _UnusableError("invalid-utf8", detail) from error
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
        raise _UnusableError("nesting-too-deep") from error
    except ValueError as error:
        raise _UnusableError("invalid-json", str(error)) from error
    if not isinstance(record, dict):
        raise _UnusableError(
            "not-an-object", f"a {TYPE_NAMES.get(type(record), type(record).__name__)}"
        )
    if doubled:
        notes["duplicate-keys"] += 1
        if text_key in doubled:
            raise _UnusableError("duplicate-text-key")
    return record
