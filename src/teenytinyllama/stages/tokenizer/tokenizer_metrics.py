"""What a tokenizer makes of a text (paper Table 1): tokens, and how many of them are makeshift."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from teenytinyllama.artifacts.conversations import IDS, UNK
from teenytinyllama.artifacts.documents import Document
from teenytinyllama.artifacts.tokenizer import TextEncoder


@dataclass
class Measure:
    """Totals over some text. Words are what stands between white space."""

    num_documents: int = 0
    num_bytes: int = 0
    num_words: int = 0
    num_tokens: int = 0
    num_byte_tokens: int = 0
    num_unknown_tokens: int = 0

    def add(self, text: str, encoder: TextEncoder) -> None:
        """Count one text."""
        ids = encoder.encode_array(text)
        self.num_documents += 1
        self.num_bytes += len(text.encode("utf-8"))
        self.num_words += len(text.split())
        self.num_tokens += len(ids)
        makeshift = encoder.makeshift_ids
        self.num_byte_tokens += int(((ids >= makeshift.start) & (ids < makeshift.stop)).sum())
        self.num_unknown_tokens += int((ids == IDS[UNK]).sum())

    def metrics(self) -> dict[str, Any]:
        """The totals and their ratios, for a manifest."""
        tokens = max(self.num_tokens, 1)
        return {
            **asdict(self),
            "tokens_per_word": self.num_tokens / max(self.num_words, 1),
            "bytes_per_token": self.num_bytes / tokens,
            "byte_fallback_fraction": self.num_byte_tokens / tokens,
            "unknown_fraction": self.num_unknown_tokens / tokens,
        }


def measure_sources(documents: Iterable[Document], encoder: TextEncoder) -> dict[str, Any]:
    """Figures of all documents together (`all`) and of each source by name."""
    total, sources = Measure(), dict[str, Measure]()
    for document in documents:
        total.add(document.text, encoder)
        sources.setdefault(document.source, Measure()).add(document.text, encoder)
    return {
        "all": total.metrics(),
        "sources": {name: sources[name].metrics() for name in sorted(sources)},
    }
