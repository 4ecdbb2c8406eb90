"""Which lines are boilerplate of a source, learnt from documents of each file before all is read.

Menus, licence notes and search boxes stand on every page of a site; taken out before the rules
judge, they neither drop a good page nor reach the model. Short lines too, which repeated
paragraphs (`paragraphs.py`) leave alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from teenytinyllama.artifacts.documents import Document
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.corpus_records import RawBatch
from teenytinyllama.stages.corpus.filters import Boilerplate, BoilerplateCounter
from teenytinyllama.stages.corpus.readers.record_parser import UnusableError, document_of, parse

SAMPLE_DOCUMENTS = 500
"""First documents of a file that are read for it."""
MAX_LINES = 1_000_000
"""Different lines held at most after a file, of all sources together: some 200 MB. Where there are
more, those seen once are let go."""


class BoilerplateLearner:
    """Counts the lines of each source, by the name that the counts of the corpus use."""

    def __init__(self, settings: CorpusSettings) -> None:
        self.settings = settings
        self._counters: defaultdict[str, BoilerplateCounter] = defaultdict(BoilerplateCounter)

    def read(self, source: Source, batches: Iterable[RawBatch]) -> None:
        """Count the first documents of one file, or of one source that is no file."""
        for document in islice(self._documents(source, batches), SAMPLE_DOCUMENTS):
            self._counters[document.source].add(document.text)
        if sum(counter.num_lines for counter in self._counters.values()) > MAX_LINES:
            for name, counter in list(self._counters.items()):
                counter.forget_rare()
                if not counter.num_lines:
                    del self._counters[name]

    def _documents(self, source: Source, batches: Iterable[RawBatch]) -> Iterator[Document]:
        """The usable ones; what is not usable is quarantined when the corpus is read."""
        notes: Counter[str] = Counter()
        for batch in batches:
            for item in batch.items:
                try:
                    record = parse(item, batch.kind, source.text_key, notes)
                    form = self.settings.unicode_form
                    yield document_of(record, item, source, form, notes)[0]
                except UnusableError:
                    continue

    def result(self) -> dict[str, Boilerplate]:
        """Boilerplate of each source that has any."""
        fraction = self.settings.filters.max_boilerplate_fraction
        found = {name: one.boilerplate(fraction) for name, one in self._counters.items()}
        return {name: one for name, one in found.items() if one.lines}
