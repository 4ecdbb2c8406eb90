"""`Decontamination`: text of evaluation tasks must not be trained on.

Every 13-gram of words in a task's items is hashed; lines of a document that share one are removed,
or the document is dropped. Splits called train are left out: learning from them is allowed.
An item none of whose texts has so many words cannot be looked for; such items are counted and said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from teenytinyllama.artifacts.records import RECORD_SUFFIXES, read_records, suffix_of
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.corpus.batches import DocumentBatch, DocumentStep, StepConfig
from teenytinyllama.stages.corpus.dedup.shingling import Hashes64, Shingler

logger = logging.getLogger(__name__)

CONTAMINATED = "contaminated"
"""Reason of a dropped document; with a colon, prefix of the counts by task."""

# A table of flags answers most look-ups: 16 MB of memory for any number of tasks.
TABLE_BITS = 24


class Decontamination(DocumentStep):
    """Removes lines, or drops documents, that share a 13-gram with an evaluation task."""

    setting = "decontaminate"

    def __init__(self, config: StepConfig) -> None:
        super().__init__(config)
        self._shingler = Shingler(self.settings.decontamination_words)
        self.names = [task.name for task in self.settings.decontaminate]
        hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for number, task in enumerate(self.settings.decontaminate):
            texts = [text for item in _items_of(task) for text in item]
            found = np.unique(np.concatenate(self._shingler.ngrams([*texts, ""])))
            hashes.append(found)
            owners.append(np.full(len(found), number, np.int32))
        self._known, first = np.unique(np.concatenate(hashes), return_index=True)
        self._owners = np.concatenate(owners)[first]
        self._table = np.zeros(1 << TABLE_BITS, bool)
        self._table[_slots(self._known)] = True

    def apply(self, batch: DocumentBatch) -> None:
        """Edit or drop; documents are counted by task."""
        settings, remaining = self.settings, batch.remaining()
        found = self.tasks_in([one.text for one in remaining])
        for one, tasks in zip(remaining, found, strict=True):
            if not tasks:
                continue
            batch.notes.update({f"{CONTAMINATED}:{name}": 1 for name in tasks})
            text, num_lines = self.cut(one.text)
            must_drop = settings.decontaminate_by == "drop" or one.document.messages
            if must_drop or not text.strip():
                batch.drop(one, CONTAMINATED)
                continue
            batch.edit(one, text)
            batch.notes["contaminated-lines-cut"] += num_lines
            if one.document.num_bytes < settings.min_document_bytes:
                batch.drop(one, CONTAMINATED)

    def tasks_in(self, texts: Sequence[str]) -> list[set[str]]:
        """Names of the tasks that each text shares an n-gram with."""
        return [
            {self.names[k] for k in self._owners_of(ngrams)}
            for ngrams in self._shingler.ngrams(texts)
        ]

    def _owners_of(self, ngrams: Hashes64) -> set[int]:
        """Numbers of the tasks that any of these n-grams is from."""
        likely = ngrams[self._table[_slots(ngrams)]]
        if not len(likely):
            return set()
        places = np.minimum(np.searchsorted(self._known, likely), len(self._known) - 1)
        hit = self._known[places] == likely
        return set(self._owners[places[hit]].tolist())

    def cut(self, text: str) -> tuple[str, int]:
        """The text without the lines that a shared n-gram touches, and how many were removed."""
        lines = text.split("\n")
        words = self._shingler.words(lines)
        line_of = np.repeat(np.arange(len(lines)), [len(part) for part in words])
        ngrams = self._shingler.ngrams_of_words(np.concatenate(words))
        touched: set[int] = set()
        for place in np.flatnonzero(self._table[_slots(ngrams)]).tolist():
            if self._owners_of(ngrams[place : place + 1]):
                touched.update(line_of[place : place + self._shingler.ngram_words].tolist())
        return "\n".join(line for k, line in enumerate(lines) if k not in touched), len(touched)


def _slots(hashes: Hashes64) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


def count_short_items(settings: CorpusSettings) -> dict[str, int]:
    """Items by task without a text of `decontamination_words` words, which cannot be looked for."""
    shingler = Shingler(settings.decontamination_words)
    counts: dict[str, int] = {}
    for task in settings.decontaminate:
        items = list(_items_of(task))
        short = sum(not any(map(len, shingler.ngrams(item))) for item in items)
        if short:
            counts[task.name] = short
            logger.info(
                f"corpus: {task.name}: {short:,} of {len(items):,} items are too short to be "
                f"looked for in the text: no field has {settings.decontamination_words} words"
            )
    return counts


def _items_of(task: Task) -> Iterator[list[str]]:
    """Every text of each item of a task's files, whatever their fields are called."""
    paths = [
        path
        for path in task.local_paths()
        if suffix_of(path) in RECORD_SUFFIXES and not path.name.lower().startswith("train")
    ]
    if not paths:
        raise UserError(
            "task-missing",
            f"corpus.decontaminate {task.name}",
            f'no .jsonl, .json, .csv, .tsv or .parquet file behind "{task.path}" (train splits do '
            "not count)",
            "give the folder of the task's validation and test files",
        )
    for path in paths:
        for record in read_records(path):
            if record.error:
                raise UserError("task-row", record.place, record.error, "correct that line")
            yield list(_leaves(record.fields))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
