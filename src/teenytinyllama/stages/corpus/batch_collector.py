"""First pass, in one process: takes processed batches in reading order.

Fills the index, the staging file and `quarantine.jsonl`, and stops where the input cannot be right.
"""

from __future__ import annotations

import json
import logging
from io import TextIOWrapper
from math import ceil
from typing import Any

from teenytinyllama.artifacts.encodings import UNKNOWN
from teenytinyllama.errors import UserError
from teenytinyllama.stages.corpus.batches import ProcessedBatch
from teenytinyllama.stages.corpus.filters.language_filter import LANGUAGE
from teenytinyllama.stages.corpus.mixture import MIN_DOCUMENTS
from teenytinyllama.stages.corpus.readers.record_parser import (
    LICENSE_MISSING,
    NOT_SELECTED,
    TEXT_MISSING,
)
from teenytinyllama.stages.corpus.staging import QUARANTINED, CorpusState
from teenytinyllama.stages.corpus.steps import CorpusSteps

logger = logging.getLogger(__name__)

# After so many records without the text field the field's name is taken to be wrong.
MIN_RECORDS_TO_DECIDE = 100
DIALOGUE_KEYS = {"messages", "conversations", "instruction", "prompt"}
# A few bad records never stop a small corpus.
ALWAYS_ALLOWED_BAD_RECORDS = 10
LOGGED_FOREIGN_FRACTION = 0.1


def place_of(record: dict[str, Any]) -> str:
    """Place of a quarantined record and what is wrong with it, for messages."""
    return f"{record['file']}:{record['line']}, {record['detail'] or record['reason']}"


class BatchCollector:
    """Hands documents to the corpus steps, and quarantines records."""

    def __init__(
        self, state: CorpusState, steps: CorpusSteps, quarantine: TextIOWrapper, language: str
    ) -> None:
        self._state, self._steps, self._language = state, steps, language
        self._quarantine_file = quarantine
        self._licensed: set[int] = set()
        self._unknown_encodings: list[tuple[str, int]] = []
        self._file, self._seen, self._missing = "", 0, 0
        self._first_bad = ""
        # Sources of which no record was selected yet, with the fields of their first record.
        self._unselected: dict[int, tuple[str, ...]] = {
            place: () for place, source in enumerate(state.settings.sources) if source.only
        }

    @property
    def num_read(self) -> int:
        """Records read so far."""
        return len(self._state.index) + self._state.stats.total(QUARANTINED)

    def collect(self, batch: ProcessedBatch) -> None:
        """One processed batch, in reading order."""
        state = self._state
        state.notes.update(batch.notes)
        if batch.entries:
            self._licensed.add(batch.source)
        self._check_text_key(batch)
        if batch.source in self._unselected:
            self._unselected[batch.source] = self._unselected[batch.source] or batch.first_keys
            if any(entry.reason != NOT_SELECTED for entry in batch.entries):
                del self._unselected[batch.source]
        for record in batch.quarantined:
            if record["reason"] == LICENSE_MISSING and batch.source not in self._licensed:
                raise UserError(
                    LICENSE_MISSING,
                    f"{record['file']}:{record['line']}:license",
                    "the record names no licence, and its source in the recipe none",
                    f'add license = "CC-BY-4.0" (or what holds) to corpus.sources.{batch.source}',
                )
            if record["reason"] == UNKNOWN:
                self._unknown_encodings.append((record["file"], batch.source))
            self._first_bad = self._first_bad or place_of(record)
            self._quarantine_file.write(json.dumps(record, ensure_ascii=True) + "\n")
            state.stats.add(record["source"], QUARANTINED, record["reason"], record["num_bytes"])
        state.texts.add(batch.frame, len(batch.entries))
        if state.settings.sources[batch.source].shape == "conversation":
            state.index.conversation_sources.update(entry.source for entry in batch.entries)
        state.stats.licenses.update(entry.license for entry in batch.entries)
        first_row = len(state.index)
        state.index.add(batch.entries)
        self._steps.collect(first_row, batch.entries)

    def _check_text_key(self, batch: ProcessedBatch) -> None:
        """Raises UserError where none of the first records of a file has the text field."""
        lacking = [record for record in batch.quarantined if record["reason"] == TEXT_MISSING]
        file = lacking[0]["file"] if lacking else ""
        if file != self._file:
            self._file, self._seen, self._missing = file, 0, 0
        self._seen += len(batch.entries) + len(batch.quarantined)
        self._missing += len(lacking)
        if not self._missing or self._missing < self._seen:
            return
        if self._seen >= MIN_RECORDS_TO_DECIDE or batch.last:
            is_dialogue = bool(set(batch.first_keys) & DIALOGUE_KEYS)
            shape = f'shape = "conversation" in corpus.sources.{batch.source}, or '
            raise UserError(
                TEXT_MISSING,
                f"{file}:1:{self._state.settings.sources[batch.source].text_key}",
                f"none of the first {self._seen} records has this field, they have "
                + (", ".join(batch.first_keys[:20]) or "no field"),
                f"set {shape if is_dialogue else ''}"
                + (
                    f'text_key = "{batch.longest_key}" in corpus.sources.{batch.source}'
                    if batch.longest_key
                    else "text_key to a field that is a text: here none is"
                ),
            )

    def finish(self) -> None:
        """End the first pass. Raises UserError where too much is bad or in another language."""
        self._state.texts.close()
        self._check_encodings()
        self._check_selected()
        self._check_quarantined()
        self._check_language()

    def _check_selected(self) -> None:
        for place, keys in self._unselected.items():
            if not keys:  # nothing was read
                continue
            only = self._state.settings.sources[place].only
            missing = [key for key in only if key not in keys]
            raise UserError(
                NOT_SELECTED,
                f"corpus.sources.{place}.only",
                f"no record has {', '.join(f'{key} = {value!r}' for key, value in only.items())}"
                + (f"; records have the fields {', '.join(keys[:20])}" if missing else ""),
                "correct the field's name or value, or remove `only`",
            )

    def _check_encodings(self) -> None:
        """Name all files in an unknown encoding; raises UserError where there is nothing else."""
        if not self._unknown_encodings:
            return
        names = ", ".join(file for file, _ in self._unknown_encodings[:10])
        more = ", ..." if len(self._unknown_encodings) > 10 else ""
        what = (
            f"{len(self._unknown_encodings)} files are not UTF-8, and no encoding is certain for "
            f'the language "{self._language}": {names}{more}'
        )
        source = self._unknown_encodings[0][1]
        fix = f'add encoding = "..." to corpus.sources.{source} (the name that iconv -l has for it)'
        if not len(self._state.index):
            raise UserError("encoding", f"corpus.sources.{source}", what, fix)
        logger.warning(f"corpus: {what}; they are quarantined. To read them: {fix}")

    def _check_quarantined(self) -> None:
        stats, read = self._state.stats, self.num_read
        bad, allowed = stats.total(QUARANTINED), self._state.settings.max_quarantined_fraction
        is_too_little = bad > 0 and read - bad < MIN_DOCUMENTS
        if bad > max(allowed * read, ALWAYS_ALLOWED_BAD_RECORDS if allowed else 0) or is_too_little:
            reason, count = stats.reasons(QUARANTINED).most_common(1)[0]
            accept = f", or --set corpus.max_quarantined_fraction={ceil(100 * bad / read) / 100}"
            raise UserError(
                "quarantine-full",
                self._quarantine_file.name,
                f"{bad} of {read} records cannot be used (most: {reason}, {count}; the first: "
                f"{self._first_bad}), expected at most {allowed:.2%}",
                "fix the sources" + ("" if is_too_little else accept),
            )

    def _check_language(self) -> None:
        index, settings = self._state.index, self._state.settings
        foreign = sum(index.reason(row) == LANGUAGE for row in range(len(index)))
        share = foreign / max(len(index), 1)
        if share > settings.max_foreign_fraction:
            raise UserError(
                "corpus-language",
                "corpus.sources",
                f"{share:.0%} of {len(index)} documents are not in {self._languages()}, "
                f"expected at most {settings.max_foreign_fraction:.0%}",
                "set the recipe's or the sources' language, take other sources, or raise "
                "corpus.max_foreign_fraction",
            )
        if share > LOGGED_FOREIGN_FRACTION:
            logger.info(
                f"corpus: {share:.0%} of the documents are not in {self._languages()}, dropped"
            )

    def _languages(self) -> str:
        sources = self._state.settings.sources
        if {source.language for source in sources} <= {"", self._language}:
            return f'the language "{self._language}"'
        return "the language of their source"
