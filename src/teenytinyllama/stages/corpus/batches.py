"""What travels through the stage, and what a step is.

A record is one line of JSON, one row of a table or one text file. Readers yield `RawBatch`es, a
worker takes each through `DOCUMENT_STEPS` as a `DocumentBatch`, and hands back a `ProcessedBatch`.
Every record becomes a document or a line of `quarantine.jsonl`; none is lost.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source

EXCERPT_CHARACTERS = 200
WHOLE_KINDS = frozenset({"text", "html", "document"})
"""Kinds of files that are one document each."""
SHARD = re.compile(r"[-_](\d{5,}|\d+-of-\d+)(-.*)?$")
"""The end of a shard's name: `train-00012-of-00100`, `part-00000-4f1c-c000`."""
Values = npt.NDArray[np.float64]
Measure = Callable[[Sequence[str]], Mapping[str, Values]]
"""Measures several texts together: one array per name, one number per text. Hashable, so that
steps with equal measures share the result."""


@dataclass(slots=True)
class RawItem:
    """One record as it was read: the bytes of a line or of a text file, or the row of a table.

    `line` counts from 1; `byte_offset` is that of the record in the unpacked file. `damage` says
    what cut the record short, for the last line of a damaged file.
    """

    file: str
    line: int
    byte_offset: int
    data: bytes | dict[str, Any]
    damage: str = ""
    detail: str = ""
    sha1: str = ""
    num_bytes: int = 0


@dataclass(slots=True)
class RawBatch:
    """Records of one source in reading order: the unit of work of one worker.

    `last`: the file ends here.
    """

    source: int
    kind: str
    items: list[RawItem] = field(default_factory=list)
    num_bytes: int = 0
    last: bool = False


@dataclass(slots=True)
class BatchDocument:
    """A record on its way through the steps.

    `reason`: why it is dropped, "" while it is not; `num_bytes`: length of its text as read, in
    UTF-8 bytes. `band_keys` and `paragraph_hashes` are what `NearDuplicates` and
    `RepeatedParagraphs` compare, 8 bytes each; `quality` is what `QualitySelection` ranks by.
    """

    item: RawItem
    record: dict[str, Any] = field(default_factory=dict)
    document: Document = field(default_factory=lambda: Document("", "", "", ""))
    num_bytes: int = 0
    reason: str = ""
    is_quarantined: bool = False
    detail: str = ""
    band_keys: bytes = b""
    paragraph_hashes: bytes = b""
    quality: float | None = None

    @property
    def text(self) -> str:
        """The text as the steps so far have left it."""
        return self.document.text


@dataclass(slots=True)
class DocumentBatch:
    """Records of one source, and the numbers that several steps need of all their texts.

    This is the one place that batches: `measure` sees every remaining text at once, the first step
    that asks pays for it, and any edit voids the numbers.
    """

    source: Source
    kind: str
    documents: list[BatchDocument]
    notes: Counter[str] = field(default_factory=Counter)
    dropped_by: Counter[str] = field(default_factory=Counter)
    """Documents that each step dropped or quarantined, by the step's name."""
    _measured: dict[Measure, tuple[dict[int, int], Mapping[str, Values]]] = field(
        default_factory=dict
    )

    def remaining(self) -> list[BatchDocument]:
        """The documents that no step has dropped, in reading order."""
        return [document for document in self.documents if not document.reason]

    def drop(self, document: BatchDocument, reason: str) -> None:
        """Drop a document: it is kept in `dropped/<reason>/`."""
        document.reason = reason

    def quarantine(self, document: BatchDocument, reason: str, detail: str = "") -> None:
        """Drop a record that is no usable document: it goes to `quarantine.jsonl`."""
        document.reason, document.detail, document.is_quarantined = reason, detail, True

    def edit(self, document: BatchDocument, text: str) -> None:
        """Give a document another text."""
        document.document.text = text
        self._measured.clear()

    def measure(self, measure: Measure, names: Iterable[str]) -> dict[str, Values]:
        """These numbers of the remaining documents, in their order."""
        remaining = self.remaining()
        if measure not in self._measured:
            rows = {id(document): row for row, document in enumerate(remaining)}
            self._measured[measure] = rows, measure([document.text for document in remaining])
        rows, values = self._measured[measure]
        places = [rows[id(document)] for document in remaining]
        return {name: values[name][places] for name in names}


class Scorer(Protocol):
    """What scores texts: `filters.quality.QualityClassifier`."""

    def score(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """A score for each text."""
        ...


@dataclass(frozen=True)
class StepConfig:
    """What the steps are made from; travels to every worker."""

    settings: CorpusSettings
    language: str
    boilerplate: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Lines that a source repeats, by the source's name."""
    quality: Scorer | None = None
    """Trained before the corpus is read, where the recipe asks for it."""

    def for_source(self, source: Source) -> StepConfig:
        """The same in the source's language, without what the recipe says of its own language."""
        if source.language in ("", self.language):
            return self
        filters = self.settings.filters.model_copy(update={"thresholds": {}, "stop_words": ()})
        settings = self.settings.model_copy(update={"filters": filters})
        return replace(self, settings=settings, language=source.language)


class DocumentStep(ABC):
    """A step that needs no document outside its batch. Same texts, same result, however batched."""

    setting: ClassVar[str] = ""
    """The setting of `[corpus]` that asks for the step; "" for a step of every corpus."""
    prose_only: ClassVar[bool] = False
    """Skip the storybook, whose short tales this package writes, and conversations, where a good
    answer may be one word."""

    def __init__(self, config: StepConfig) -> None:
        self.settings, self.language = config.settings, config.language

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """Whether the recipe asks for this step."""
        return not cls.setting or bool(getattr(config.settings, cls.setting))

    @abstractmethod
    def apply(self, batch: DocumentBatch) -> None:
        """Drop, quarantine, edit or annotate the remaining documents of a batch."""


class ProseFilter(DocumentStep):
    """A filter for found prose: part of `FilterPipeline`."""

    prose_only = True
    family: ClassVar[str] = ""
    """The family of `filters.families` that asks for the filter; "" for a filter of all prose."""

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """Whether the filter's family is on."""
        return not cls.family or cls.family in config.settings.filters.families


@dataclass(slots=True)
class IndexEntry:
    """One document of a processed batch, without its text: what `CORPUS_STEPS` decide on."""

    digest: bytes
    id_digest: bytes
    source: str
    license: str
    num_bytes: int
    reason: str
    band_keys: bytes
    paragraph_hashes: bytes
    quality: float | None = None


@dataclass(slots=True)
class ProcessedBatch:
    """A batch after all document steps; the texts are compressed together in `frame`."""

    source: int
    frame: bytes
    entries: list[IndexEntry]
    quarantined: list[dict[str, Any]]
    notes: Counter[str]
    first_keys: tuple[str, ...] = ()
    """Fields of the first record that has any, to say what a file holds."""
    longest_key: str = ""
    """Of its fields that are texts, the longest."""
    last: bool = False


def stem_of(file: str, source: Source) -> str:
    """Name of a file without suffixes, or its source's title."""
    if source.kind != "files":
        return source.title
    # A name that is not UTF-8 holds lone surrogates, which no file of ours may.
    name = os.fsencode(Path(file).name).decode("utf-8", "replace")
    return name.split(".")[0] or source.title


def source_of(file: str, kind: str, source: Source) -> str:
    """Name of the source of a record that names none.

    Texts and pages of a folder are one source, not one each; so are the shards of a data set.
    """
    is_one = Path(source.path).name == Path(file).name
    if source.name or (kind in WHOLE_KINDS and not is_one):
        return source.title
    return SHARD.sub("", stem_of(file, source)) or source.title


def quarantine_row(document: BatchDocument, source: Source, kind: str = "lines") -> dict[str, Any]:
    """A line of `quarantine.jsonl`: where a record is, to fix it, and why it cannot be used."""
    item = document.item
    data = item.data if isinstance(item.data, bytes) else repr(item.data).encode("utf-8", "replace")
    excerpt = data[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "replace")[:EXCERPT_CHARACTERS]
    return {
        "source": source_of(item.file, kind, source),
        "file": item.file,
        "line": item.line,
        "byte_offset": item.byte_offset,
        "reason": document.reason,
        "detail": document.detail or item.detail,
        "sha1": item.sha1 or hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        "excerpt": excerpt,
        "num_bytes": item.num_bytes or len(data),
    }
