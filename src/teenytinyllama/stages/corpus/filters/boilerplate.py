"""`BoilerplateRemoval`: lines that a source repeats from document to document.

Menus, licence notes and search boxes are on every page of a site. They are learned from the first
documents of each file before the corpus is read, and removed before the other filters: so they
neither drop a good page nor reach the model. Also short lines, which `RepeatedParagraphs` leaves
alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.batches import (
    BatchDocument,
    DocumentBatch,
    ProseFilter,
    RawBatch,
    StepConfig,
)
from teenytinyllama.stages.corpus.readers.record_parser import ExtractText, ParseRecord
from teenytinyllama.stages.corpus.readers.sources import InputFile, read_file
from teenytinyllama.stages.corpus.text_cleaning import CleanText

SAMPLE_DOCUMENTS = 500
"""Documents at the start of each file that boilerplate is learned from."""
MAX_LINES = 1_000_000
"""Distinct lines kept after a file, over all sources: about 200 MB. Above it, lines seen once are
forgotten."""
MIN_BOILERPLATE_DOCUMENTS = 10
"""A line in at most this many documents is never boilerplate, however small the source."""


class BoilerplateRemoval(ProseFilter):
    """Removes the learned lines of the document's source."""

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
            lines = self._boilerplate.get(one.document.source)
            if lines is not None and (num_lines := lines.num_lines_in(one.text)):
                batch.notes["boilerplate-lines-cut"] += num_lines
                batch.edit(one, lines.clean(one.text))


def learn_boilerplate(
    settings: CorpusSettings, language: str, files: Iterable[InputFile]
) -> dict[str, Boilerplate]:
    """Lines that the sources repeat, by source; none where the recipe keeps them."""
    if settings.filters.max_boilerplate_fraction == 1:
        return {}
    learner = BoilerplateLearner(settings, language)
    for file in files:
        source = settings.sources[file.source]
        learner.read(source, read_file(file, source, settings, Counter()))
    return learner.result()


@dataclass(frozen=True)
class Boilerplate:
    """Lines that a source repeats from document to document."""

    lines: frozenset[str]

    def num_lines_in(self, text: str) -> int:
        """How many lines of the text `clean` removes."""
        return sum(line.strip() in self.lines for line in text.split("\n"))

    def clean(self, text: str) -> str:
        """The text without these lines, and then without line breaks at its ends."""
        kept = [line for line in text.split("\n") if line.strip() not in self.lines]
        return "\n".join(kept).strip("\n")


class BoilerplateCounter:
    """Counts in how many documents of one source each line occurs.

    White space around a line is ignored. Lines of one or two characters are structure, not
    boilerplate.
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self._documents_with: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count one document."""
        self.num_documents += 1
        lines = {line for raw in text.split("\n") if len(line := raw.strip()) > 2}
        self._documents_with.update(lines)

    @property
    def num_lines(self) -> int:
        """Distinct lines held."""
        return len(self._documents_with)

    def forget_rare(self) -> None:
        """Forget lines seen once: a line of half the documents comes back soon."""
        seen = self._documents_with
        self._documents_with = Counter({line: times for line, times in seen.items() if times > 1})

    def boilerplate(self, max_documents_fraction: float) -> Boilerplate:
        """Lines in more than this share of the documents."""
        least = max(MIN_BOILERPLATE_DOCUMENTS, max_documents_fraction * self.num_documents)
        found = (line for line, times in self._documents_with.items() if times > least)
        return Boilerplate(frozenset(found))


class BoilerplateLearner:
    """Counts the lines of each source, by the name that the counts of the corpus use."""

    def __init__(self, settings: CorpusSettings, language: str) -> None:
        self._max_fraction = settings.filters.max_boilerplate_fraction
        config = StepConfig(settings, language)
        self._steps = [step(config) for step in (ParseRecord, ExtractText, CleanText)]
        self._counters: defaultdict[str, BoilerplateCounter] = defaultdict(BoilerplateCounter)

    def read(self, source: Source, batches: Iterable[RawBatch]) -> None:
        """Count the first documents of one file."""
        for one in islice(self._documents(source, batches), SAMPLE_DOCUMENTS):
            self._counters[one.document.source].add(one.text)
        if sum(counter.num_lines for counter in self._counters.values()) > MAX_LINES:
            for name, counter in list(self._counters.items()):
                counter.forget_rare()
                if not counter.num_lines:
                    del self._counters[name]

    def _documents(self, source: Source, batches: Iterable[RawBatch]) -> Iterator[BatchDocument]:
        """The usable documents; the others are quarantined when the corpus is read."""
        for raw in batches:
            batch = DocumentBatch(source, raw.kind, [BatchDocument(item) for item in raw.items])
            for step in self._steps:
                step.apply(batch)
            yield from batch.remaining()

    def result(self) -> dict[str, Boilerplate]:
        """Boilerplate of each source that has any."""
        found = {name: one.boilerplate(self._max_fraction) for name, one in self._counters.items()}
        return {name: one for name, one in found.items() if one.lines}
