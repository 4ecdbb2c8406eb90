"""`BoilerplateRemoval`: lines that a source repeats from document to document.

Menus, licence notes and search boxes are on every page of a site. They are learned from the first
documents of each file before the corpus is read, and removed before the other filters: so they
neither drop a good page nor reach the model. Also short lines, which `RepeatedParagraphs` leaves
alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    ProseFilter,
    StepConfig,
)
from teenytinyllama.stages.corpus.readers.record_parser import ExtractText, ParseRecord
from teenytinyllama.stages.corpus.readers.sources import InputFile, read_file
from teenytinyllama.stages.corpus.text_cleaning import CleanText

SAMPLE_DOCUMENTS = 500
"""Documents at the start of each file that boilerplate is learned from."""
MAX_LINES = 1_000_000
"""Distinct lines kept after a file, over all sources: about 200 MB. Above it, lines seen once are
forgotten: a line of half the documents comes back soon."""
MIN_BOILERPLATE_DOCUMENTS = 10
"""A line in at most this many documents is never boilerplate, however small the source."""


class BoilerplateRemoval(ProseFilter):
    """Removes the learned lines of the document's source, then line breaks at the text's ends."""

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        self._boilerplate = config.boilerplate

    @classmethod
    def is_wanted(cls, config: StepConfig) -> bool:
        """Whether any source has boilerplate."""
        return bool(config.boilerplate)

    def apply(self, batch: DocumentBatch) -> None:
        """Edit the documents that have such lines; counts the lines."""
        for one in batch.remaining():
            lines = one.text.split("\n")
            boilerplate = self._boilerplate.get(one.document.source, frozenset())
            kept = [line for line in lines if line.strip() not in boilerplate]
            if len(kept) < len(lines):
                batch.notes["boilerplate-lines-cut"] += len(lines) - len(kept)
                batch.edit(one, "\n".join(kept).strip("\n"))


class LineCounter:
    """In how many documents of one source each line occurs.

    White space around a line is ignored. Lines of one or two characters are structure, not
    boilerplate.
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self.documents_with: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count one document."""
        self.num_documents += 1
        lines = {line for raw in text.split("\n") if len(line := raw.strip()) > 2}
        self.documents_with.update(lines)

    def forget_rare(self) -> None:
        """Forget lines seen once."""
        seen = self.documents_with.items()
        self.documents_with = Counter({line: times for line, times in seen if times > 1})

    def boilerplate(self, max_documents_fraction: float) -> frozenset[str]:
        """Lines in more than this share of the documents."""
        limit = max(MIN_BOILERPLATE_DOCUMENTS, max_documents_fraction * self.num_documents)
        return frozenset(line for line, times in self.documents_with.items() if times > limit)


def learn_boilerplate(
    settings: CorpusSettings, language: str, files: Iterable[InputFile]
) -> dict[str, frozenset[str]]:
    """Lines that sources repeat, by the source's name; none where the recipe keeps them."""
    max_fraction = settings.filters.max_boilerplate_fraction
    if max_fraction == 1:
        return {}
    counters: defaultdict[str, LineCounter] = defaultdict(LineCounter)
    config = StepConfig(settings, language)
    for file in files:
        for one in islice(usable_documents(file, config), SAMPLE_DOCUMENTS):
            counters[one.document.source].add(one.text)
        forget_rare_lines(counters)
    found = {name: counter.boilerplate(max_fraction) for name, counter in counters.items()}
    return {name: lines for name, lines in found.items() if lines}


def forget_rare_lines(counters: dict[str, LineCounter]) -> None:
    """Bound the memory of counters."""
    if sum(len(counter.documents_with) for counter in counters.values()) > MAX_LINES:
        for name, counter in list(counters.items()):
            counter.forget_rare()
            if not counter.documents_with:
                del counters[name]


def usable_documents(file: InputFile, config: StepConfig) -> Iterator[BatchDocument]:
    """The usable documents of a file; the others are quarantined when the corpus is read."""
    source = config.settings.sources[file.source]
    steps = [step(config) for step in (ParseRecord, ExtractText, CleanText)]
    for raw in read_file(file, config, Counter()):
        batch = DocumentBatch(source, raw.kind, [BatchDocument(item) for item in raw.items])
        for step in steps:
            step.apply(batch)
        yield from batch.remaining()
