"""The books of the stage: every record under one heading, in all and per source."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

KEPT, QUARANTINED = "kept", "quarantined"
DUPLICATES = ("duplicate-exact", "duplicate-near")
HEADINGS = (KEPT, "filtered", "duplicate", QUARANTINED)
# A `source` field may hold an address per line: beyond this many names the rest share one.
MAX_SOURCES = 1000


def heading_of(reason: str) -> str:
    """Under which heading a reason counts: `filtered`, `duplicate`, or `kept` for none."""
    if not reason:
        return KEPT
    return "duplicate" if reason in DUPLICATES else "filtered"


class Ledger:
    """Documents and bytes by source and heading, and documents by reason.

    Bytes are those of the text as read; of a record that has no text, those of the record.
    """

    def __init__(self) -> None:
        self._documents: dict[str, Counter[str]] = defaultdict(Counter)
        self._bytes: dict[str, Counter[str]] = defaultdict(Counter)
        self._reasons: dict[str, Counter[str]] = {h: Counter() for h in HEADINGS[1:]}
        self.licenses: Counter[str] = Counter()

    def add(self, source: str, heading: str, reason: str, num_bytes: int) -> None:
        """One record."""
        if source not in self._documents and len(self._documents) >= MAX_SOURCES:
            source = "other"
        self._documents[source][heading] += 1
        self._bytes[source][heading] += num_bytes
        if heading != KEPT:
            self._reasons[heading][reason] += 1

    def total(self, heading: str = "") -> int:
        """Records under one heading, or all."""
        return sum(n[heading] if heading else n.total() for n in self._documents.values())

    def reasons(self, heading: str) -> Counter[str]:
        """Records by reason under one heading."""
        return self._reasons[heading]

    def counts(self) -> dict[str, Any]:
        """The counts of the manifest. Asserted: nothing is lost between the headings."""
        whole = _row(sum(self._documents.values(), Counter()), sum(self._bytes.values(), Counter()))
        rows = {
            name: _row(self._documents[name], self._bytes[name]) for name in sorted(self._documents)
        }
        for row in (whole, *rows.values()):
            for unit in ("documents", "bytes"):
                parts = sum(row[f"{unit}_{heading}"] for heading in HEADINGS)
                assert row[f"{unit}_read"] == parts, f"{unit} do not add up: {row}"
        for unit in ("documents_read", "bytes_read"):
            assert whole[unit] == sum(row[unit] for row in rows.values()), "sources do not add up"
        return {
            **whole,
            "sources": rows,
            **{
                f"{heading}_by_reason": dict(sorted(counts.items()))
                for heading, counts in self._reasons.items()
            },
        }


def _row(documents: Counter[str], num_bytes: Counter[str]) -> dict[str, int]:
    return {
        "documents_read": documents.total(),
        **{f"documents_{heading}": documents[heading] for heading in HEADINGS},
        "bytes_read": num_bytes.total(),
        **{f"bytes_{heading}": num_bytes[heading] for heading in HEADINGS},
    }
