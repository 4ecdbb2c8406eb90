"""What a worker does with a batch: parse, check, clean, judge. Pure: same batch, same result."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import zstandard

from teenytinyllama.artifacts.documents import Document, document_row
from teenytinyllama.languages.personal_data import PersonalData
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.corpus_records import Entry, Fault, Prepared, RawBatch, make_fault
from teenytinyllama.stages.corpus.decontamination import Decontaminator
from teenytinyllama.stages.corpus.dedup.repeated_paragraphs import paragraph_hashes
from teenytinyllama.stages.corpus.dedup.shingling import Signer
from teenytinyllama.stages.corpus.filters import Boilerplate, Chain
from teenytinyllama.stages.corpus.readers.record_parser import (
    UnusableError,
    digest_of,
    document_of,
    parse,
    stem_of,
)

PERSONAL_DATA, CONTAMINATED = "personal-data:", "contaminated:"
NO_MAIN_TEXT, NOT_SELECTED = "no-main-text", "not-selected"


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

    def __init__(
        self,
        settings: CorpusSettings,
        language: str,
        boilerplate: Mapping[str, Boilerplate] | None = None,
    ) -> None:
        self._boilerplate = boilerplate or {}
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
                document, size = document_of(
                    record, item, source, self.settings.unicode_form, notes
                )
                reason = "" if document.text else NO_MAIN_TEXT
                reason = reason if source.selects(record) else NOT_SELECTED
                kept.append(_Candidate(document, size, reason))
            except UnusableError as bad:
                title = source.name or stem_of(item.file, source)
                faults.append(make_fault(item, title, bad.reason, bad.detail))
        self._judge(kept, source, notes)
        self._decontaminate([k for k in kept if not k.reason], notes)
        remaining = [k for k in kept if not k.reason]
        self._replace_personal_data(remaining, source, notes)
        self._sign(remaining)
        self._hash_paragraphs(remaining, source)
        lines = [json.dumps(document_row(k.document), ensure_ascii=False) for k in kept]
        return Prepared(
            source=batch.source,
            frame=self._pack.compress("\n".join(lines).encode("utf-8")),
            entries=[
                Entry(
                    # A page without text is no copy of another one.
                    digest=digest_of(k.document.text or k.document.id),
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

    def _judge(self, kept: list[_Candidate], source: Source, notes: Counter[str]) -> None:
        """Give each document the reason that drops it, if any, and its scores.

        Only prose is: the storybook is written by this package and its tales are short, and a
        good answer may be one word.
        """
        judged = []
        for candidate in kept:
            if candidate.reason:
                continue
            if candidate.document.num_bytes < self.settings.min_document_bytes:
                candidate.reason = "too-short"
            elif self._chain is not None and _is_prose(source):
                judged.append(candidate)
        if self._chain is None or not judged:
            return
        repeated = [self._boilerplate.get(c.document.source) for c in judged]
        for candidate, lines in zip(judged, repeated, strict=True):
            if lines is not None:
                notes["boilerplate-lines-cut"] += lines.num_lines_in(candidate.document.text)
        verdicts = self._chain.judge(
            [c.document.text for c in judged],
            urls=[c.document.url for c in judged],
            boilerplate=repeated,
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
