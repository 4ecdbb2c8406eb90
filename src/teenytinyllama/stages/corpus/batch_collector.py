"""Takes prepared batches in order: exact duplicates, quarantine, and the index of what was read.

Texts go to a spool on disk at once. What stays in memory is about 200 bytes per document.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.stages.corpus.corpus_records import Fault, Prepared
from teenytinyllama.stages.corpus.corpus_stats import QUARANTINED, Ledger
from teenytinyllama.stages.corpus.dedup.minhash import BandKeys
from teenytinyllama.stages.corpus.dedup.repeated_paragraphs import ParagraphStore
from teenytinyllama.stages.corpus.document_index import Index
from teenytinyllama.stages.corpus.readers.record_parser import LICENSE_MISSING, TEXT_MISSING
from teenytinyllama.stages.corpus.staging import Spool

DECIDED_AFTER = 100
DIALOGUE_KEYS = {"messages", "conversations", "instruction", "prompt"}
# A few bad records never stop a small corpus.
ALWAYS_ALLOWED_FAULTS = 10


class Intake:
    """Fills the index, the spool and `quarantine.jsonl`; stops where the input cannot be right."""

    def __init__(self, settings: CorpusSettings, work_dir: Path, quarantine: TextIOWrapper) -> None:
        self.settings = settings
        self.index = Index()
        self.ledger = Ledger()
        self.notes: Counter[str] = Counter()
        self.spool = Spool(work_dir / "spool")
        near = settings.near_duplicates
        self.keys = BandKeys(work_dir / "keys", near.num_bands) if near else None
        repeated = settings.repeated_paragraphs
        self.paragraphs = ParagraphStore(work_dir / "paragraphs") if repeated else None
        self._quarantine = quarantine
        self._first_of: dict[bytes, int] = {}
        self._ids: dict[bytes, int] = {}
        self._licensed: set[int] = set()
        self._file, self._seen, self._missing = "", 0, 0
        self._keys: tuple[str, ...] = ()

    def take(self, batch: Prepared) -> None:
        """One prepared batch, in reading order."""
        self.notes.update(batch.notes)
        if batch.entries:
            self._licensed.add(batch.source)
        self._check_text_key(batch)
        for fault in batch.faults:
            if fault.reason == LICENSE_MISSING and batch.source not in self._licensed:
                raise UserError(
                    LICENSE_MISSING,
                    f"{fault.file}:{fault.line}:license",
                    "the record names no licence, and its source in the recipe none",
                    f'add license = "CC-BY-4.0" (or what holds) to corpus.sources.{batch.source}',
                )
            self._set_aside(fault)
        self.spool.add(batch.frame, len(batch.entries))
        if self.settings.sources[batch.source].shape == "conversation":
            self.index.instruction_sources.update(entry.source for entry in batch.entries)
        rows, paragraphs = [], []
        for entry in batch.entries:
            index, row = self.index, len(self.index)
            index.digests += entry.digest
            index.sources.append(index.source_names.code(entry.source))
            index.num_bytes.append(entry.num_bytes)
            index.reasons.append(index.reason_names.code(entry.reason))
            first = self._first_of.setdefault(entry.digest, row)
            if first != row:
                index.drop(row, "duplicate-exact", duplicate_of=first)
            elif entry.band_keys and self.keys is not None:
                self.keys.add(row, entry.band_keys)
            if entry.paragraphs and first == row:
                rows.append(row)
                paragraphs.append(np.frombuffer(entry.paragraphs, np.uint64))
            copies = self._ids[entry.id_digest] = self._ids.get(entry.id_digest, 0) + 1
            if copies > 1:
                index.renamed[row] = copies
                self.notes["duplicate-id"] += 1
            self.ledger.licenses[entry.license] += 1
        if self.paragraphs is not None:
            self.paragraphs.add(rows, paragraphs)

    def _set_aside(self, fault: Fault) -> None:
        self._quarantine.write(json.dumps(asdict(fault), ensure_ascii=True) + "\n")
        self.ledger.add(fault.source, QUARANTINED, fault.reason, fault.num_bytes)

    def _check_text_key(self, batch: Prepared) -> None:
        """Raises UserError where none of the first records of a file has the text field."""
        lacking = [f for f in batch.faults if f.reason == TEXT_MISSING]
        file = lacking[0].file if lacking else ""
        if file != self._file:
            self._file, self._seen, self._missing = file, 0, 0
        self._seen += len(batch.entries) + len(batch.faults)
        self._missing += len(lacking)
        if self._missing and self._missing == self._seen:
            self._keys = self._keys or batch.first_keys
            if self._seen >= DECIDED_AFTER or batch.last:
                is_dialogue = bool(set(batch.first_keys) & DIALOGUE_KEYS)
                shape = f'shape = "conversation" in corpus.sources.{batch.source}, or '
                raise UserError(
                    TEXT_MISSING,
                    f"{file}:1:{self.settings.sources[batch.source].text_key}",
                    f"none of the first {self._seen} records has this field, they have "
                    + (", ".join(batch.first_keys[:20]) or "no field"),
                    f'set {shape if is_dialogue else ""}text_key = "..." in '
                    f"corpus.sources.{batch.source}",
                )

    def finish(self) -> None:
        """Close the files. Raises UserError where nothing or too little could be read."""
        self.spool.close()
        self._first_of.clear()
        self._ids.clear()
        bad, read = self.ledger.total(QUARANTINED), self.ledger.total(QUARANTINED) + len(self.index)
        allowed = self.settings.max_quarantined_fraction
        if bad > max(allowed * read, ALWAYS_ALLOWED_FAULTS if allowed else 0):
            reason, count = self.ledger.reasons(QUARANTINED).most_common(1)[0]
            raise UserError(
                "quarantine-full",
                self._quarantine.name,
                f"{bad} of {read} records cannot be used (most: {reason}, {count}), "
                f"expected at most {allowed:.2%}",
                f"mend the sources, or --set corpus.max_quarantined_fraction={bad / read:.2f}",
            )
