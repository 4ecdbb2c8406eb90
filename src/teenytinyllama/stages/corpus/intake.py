"""Takes prepared batches in order: exact duplicates, quarantine, and the index of what was read.

Texts go to a spool on disk at once. What stays in memory is about 200 bytes per document.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import zstandard

from teenytinyllama.errors import UserError
from teenytinyllama.recipe import CorpusSettings
from teenytinyllama.stages.corpus.ledger import QUARANTINED, Ledger
from teenytinyllama.stages.corpus.prepare import LICENSE_MISSING, TEXT_MISSING
from teenytinyllama.stages.corpus.records import Fault, Prepared

DECIDED_AFTER = 100
# A few bad records never stop a small corpus.
ALWAYS_ALLOWED_FAULTS = 10


class Names:
    """Words as small numbers, in order of first appearance."""

    def __init__(self, first: tuple[str, ...] = ()) -> None:
        self.names = list(first)
        self._codes = {name: code for code, name in enumerate(first)}

    def code(self, name: str) -> int:
        """The number of a word, new or known."""
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code


class Index:
    """One row per good record in reading order: its digest, source, size and verdict so far."""

    def __init__(self) -> None:
        self.digests = bytearray()
        self.sources = array("i")
        self.num_bytes = array("q")
        self.reasons = array("i")
        self.source_names = Names()
        self.reason_names = Names(("",))
        self.duplicate_of: dict[int, int] = {}
        self.renamed: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def reason(self, row: int) -> str:
        """Why a document is dropped, or ""."""
        return self.reason_names.names[self.reasons[row]]

    def source(self, row: int) -> str:
        """Name of a document's source."""
        return self.source_names.names[self.sources[row]]

    def drop(self, row: int, reason: str, duplicate_of: int | None = None) -> None:
        """Give a document the reason that drops it."""
        self.reasons[row] = self.reason_names.code(reason)
        if duplicate_of is not None:
            self.duplicate_of[row] = duplicate_of

    def digest(self, row: int) -> bytes:
        """128-bit hash of a document's text."""
        return bytes(self.digests[16 * row : 16 * row + 16])


class Intake:
    """Fills the index, the spool and `quarantine.jsonl`; stops where the input cannot be right."""

    def __init__(self, settings: CorpusSettings, work_dir: Path, quarantine: TextIOWrapper) -> None:
        self.settings = settings
        self.index = Index()
        self.ledger = Ledger()
        self.notes: Counter[str] = Counter()
        self.spool_path = work_dir / "spool"
        self._spool = self.spool_path.open("wb")
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
        self._spool.write(len(batch.frame).to_bytes(8, "little") + batch.frame)
        for entry in batch.entries:
            index, row = self.index, len(self.index)
            index.digests += entry.digest
            index.sources.append(index.source_names.code(entry.source))
            index.num_bytes.append(entry.num_bytes)
            index.reasons.append(index.reason_names.code(entry.reason))
            first = self._first_of.setdefault(entry.digest, row)
            if first != row:
                index.drop(row, "duplicate-exact", duplicate_of=first)
            copies = self._ids[entry.id_digest] = self._ids.get(entry.id_digest, 0) + 1
            if copies > 1:
                index.renamed[row] = copies
                self.notes["duplicate-id"] += 1
            self.ledger.licenses[entry.license] += 1

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
                raise UserError(
                    TEXT_MISSING,
                    f"{file}:1:{self.settings.sources[batch.source].text_key}",
                    f"none of the first {self._seen} records has this field, they have "
                    + (", ".join(batch.first_keys[:20]) or "no field"),
                    f'set text_key = "..." in corpus.sources.{batch.source}',
                )

    def finish(self) -> None:
        """Close the files. Raises UserError where nothing or too little could be read."""
        self._spool.close()
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


def read_spool(path: Path) -> Any:
    """The documents of the spool as dictionaries, in index order."""
    unpack = zstandard.ZstdDecompressor()
    with path.open("rb") as file:
        while head := file.read(8):
            text = unpack.decompress(file.read(int.from_bytes(head, "little"))).decode("utf-8")
            if text:
                for line in text.split("\n"):
                    yield json.loads(line)
