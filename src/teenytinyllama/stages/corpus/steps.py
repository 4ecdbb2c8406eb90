"""The corpus as two lists of steps, in order, and what runs them.

`DOCUMENT_STEPS` need no other document: a worker takes batch after batch through them, on one core,
on all (`process_all`), or on many machines (`datatrove_executors.py`), with the same result.
`CORPUS_STEPS` need the documents before, or all of them: they run once, in one process, on what the
first list annotated.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import connection

import zstandard

from teenytinyllama.artifacts.documents import Document, document_row
from teenytinyllama.settings.data_preparation import CorpusSettings, FilterSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus import decontamination, mixture, text_cleaning
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    DocumentStep,
    IndexEntry,
    ProcessedBatch,
    ProseFilter,
    RawBatch,
    RawItem,
    StepConfig,
    quarantine_row,
)
from teenytinyllama.stages.corpus.dedup import exact_duplicates, minhash, repeated_paragraphs
from teenytinyllama.stages.corpus.dedup.exact_duplicates import digest_of
from teenytinyllama.stages.corpus.filters import (
    boilerplate,
    c4_filter,
    language_filter,
    quality,
    rule_filters,
    toxicity,
    url_filter,
)
from teenytinyllama.stages.corpus.filters.quality import QualityClassifier
from teenytinyllama.stages.corpus.readers import record_parser
from teenytinyllama.stages.corpus.staging import CorpusState, CorpusStep

DOCUMENT_STEPS: tuple[type[DocumentStep], ...] = (
    record_parser.ParseRecord,  # may quarantine a record
    record_parser.ExtractText,
    text_cleaning.CleanText,
    record_parser.SourceSelection,  # from here on a document is dropped with its reason
    record_parser.MainTextRequired,
    text_cleaning.MinLength,
    boilerplate.BoilerplateRemoval,  # edits
    text_cleaning.EmptyText,
    url_filter.UrlFilter,
    language_filter.LanguageFilter,
    c4_filter.C4Filter,  # edits or drops
    # These three share one measurement of the batch: an edit between them would cost another.
    rule_filters.GopherRepetitionFilter,
    rule_filters.FineWebQualityFilter,
    rule_filters.GopherQualityFilter,
    toxicity.ToxicityFilter,
    quality.QualityFilter,  # annotates for `QualitySelection`, and drops
    decontamination.Decontamination,  # edits or drops
    text_cleaning.PersonalDataReplacement,  # edits
    minhash.MinHashSignature,  # for `NearDuplicates`
    repeated_paragraphs.ParagraphHashes,  # for `RepeatedParagraphs`
)

CORPUS_STEPS: tuple[type[CorpusStep], ...] = (
    exact_duplicates.ExactDuplicates,  # of the texts as the workers left them
    exact_duplicates.UniqueIds,
    minhash.NearDuplicates,
    quality.QualitySelection,
    mixture.Split,
    mixture.Mixture,  # of the training split
    repeated_paragraphs.RepeatedParagraphs,
    exact_duplicates.ExactDuplicates,  # of what repeated paragraphs left of the texts
)

BATCHES_IN_FLIGHT_PER_WORKER = 3
MAX_WORKERS = 16


class DocumentProcessor:
    """Takes batches through the document steps that the recipe asks for."""

    def __init__(self, config: StepConfig) -> None:
        self.config = config
        configs = map(config.for_source, config.settings.sources)
        self._steps = {
            one.language: [step(one) for step in DOCUMENT_STEPS if step.is_wanted(one)]
            for one in {one.language: one for one in configs}.values()
        }
        self._compressor = zstandard.ZstdCompressor(level=1)

    def apply(self, raw: RawBatch) -> DocumentBatch:
        """Every record of a batch, in order, as the steps leave it."""
        source = self.config.settings.sources[raw.source]
        batch = DocumentBatch(source, raw.kind, [BatchDocument(item) for item in raw.items])
        apply_steps(self._steps[source.language or self.config.language], batch)
        return batch

    def process(self, raw: RawBatch) -> ProcessedBatch:
        """The same, ready for another process: texts compressed, the rest as index entries."""
        batch = self.apply(raw)
        kept = [one for one in batch.documents if not one.is_quarantined]
        lines = [json.dumps(document_row(one.document), ensure_ascii=False) for one in kept]
        first = next((one.record for one in batch.documents if one.record), {})
        texts = {key: value for key, value in first.items() if isinstance(value, str)}
        return ProcessedBatch(
            source=raw.source,
            frame=self._compressor.compress("\n".join(lines).encode("utf-8")),
            entries=[
                IndexEntry(
                    # A page without text is no copy of another one.
                    digest=digest_of(one.text or one.document.id),
                    id_digest=digest_of(one.document.id)[:8],
                    source=one.document.source,
                    license=one.document.license,
                    num_bytes=one.num_bytes,
                    reason=one.reason,
                    band_keys=one.band_keys,
                    paragraph_hashes=one.paragraph_hashes,
                    quality=one.quality,
                )
                for one in kept
            ],
            quarantined=[
                quarantine_row(one, batch.source, batch.kind)
                for one in batch.documents
                if one.is_quarantined
            ],
            notes=batch.notes,
            first_keys=tuple(first),
            longest_key=max(texts, key=lambda key: len(texts[key]), default=""),
            last=raw.last,
        )


def apply_steps(steps: Sequence[DocumentStep], batch: DocumentBatch) -> None:
    """Take a batch through steps, and count what each drops."""
    is_prose = batch.source.kind != "storybook" and batch.source.shape == "text"
    before = len(batch.remaining())
    for step in steps:
        if before and (is_prose or not step.prose_only):
            step.apply(batch)
            after = len(batch.remaining())
            batch.dropped_by[type(step).__name__] += before - after
            before = after


def process_all(
    batches: Iterable[RawBatch], config: StepConfig, *, num_workers: int
) -> Iterator[ProcessedBatch]:
    """Every batch processed, in the order given, by this process (0 workers) or by a pool.

    A bounded number of batches is in flight. Workers are spawned (a forked child would hold the
    run's lock), and end by themselves when their parent is gone.
    """
    if num_workers == 0:
        yield from map(DocumentProcessor(config).process, batches)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _start_worker, (config,)) as pool:
        in_flight: deque[Future[ProcessedBatch]] = deque()
        try:
            for batch in batches:
                in_flight.append(pool.submit(_process, batch))
                if len(in_flight) >= BATCHES_IN_FLIGHT_PER_WORKER * num_workers:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may use, at most 16: one process reads, and feeds no more workers."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


_worker_config: StepConfig


def _start_worker(config: StepConfig) -> None:
    global _worker_config
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker_config = config


@cache
def _worker_processor() -> DocumentProcessor:
    # Not in `_start_worker`: an error there would reach the caller as a broken pool.
    return DocumentProcessor(_worker_config)


def _process(batch: RawBatch) -> ProcessedBatch:
    return _worker_processor().process(batch)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


class CorpusSteps:
    """Runs the corpus steps that the recipe asks for, in the two passes and between them."""

    def __init__(self, state: CorpusState) -> None:
        self._index = state.index
        steps = [step(state) for step in CORPUS_STEPS if step.is_wanted(state.settings)]
        needs_all = [place for place, step in enumerate(steps) if step.needs_all_documents]
        self._while_reading = steps[: needs_all[0]]
        self._between = steps[needs_all[0] : needs_all[-1] + 1]
        self._while_writing = steps[needs_all[-1] + 1 :]

    def collect(self, first_row: int, entries: Sequence[IndexEntry]) -> None:
        """First pass: documents that were just added to the index."""
        for step in [*self._while_reading, *self._between]:
            step.collect(first_row, entries)

    def decide(self) -> None:
        """Between the passes."""
        self._while_reading.clear()  # frees the hashes of all documents
        for step in self._between:
            step.decide()

    def revise(self, row: int, document: Document) -> None:
        """Second pass: one document, until a step drops it."""
        for step in [*self._between, *self._while_writing]:
            if self._index.reasons[row]:
                return
            step.revise(row, document)


@dataclass(slots=True)
class FilterResult:
    """What the filters decide on one text: the reason to drop it or None, scores, text left."""

    reason: str | None
    text: str
    scores: dict[str, float] = field(default_factory=dict)


class FilterPipeline:
    """The filters among the document steps, on texts that are no corpus: pure and picklable."""

    def __init__(
        self, filters: FilterSettings, language: str, classifier: QualityClassifier | None = None
    ) -> None:
        self._source = Source(kind="files", path="-")
        settings = CorpusSettings(sources=(self._source,), filters=filters)
        config = StepConfig(settings, language, quality=classifier)
        chosen = [step for step in DOCUMENT_STEPS if issubclass(step, ProseFilter)]
        self.steps = [step(config) for step in chosen if step.is_wanted(config)]

    def apply(self, texts: Sequence[str], urls: Sequence[str] | None = None) -> list[FilterResult]:
        """One result per text, in order."""
        item = RawItem("", 0, 0, b"")
        items = [
            BatchDocument(item, document=Document("", text, "", "", url))
            for text, url in zip(texts, urls or [""] * len(texts), strict=True)
        ]
        batch = DocumentBatch(self._source, "", items)
        apply_steps(self.steps, batch)
        return [FilterResult(one.reason or None, one.text, one.document.scores) for one in items]
