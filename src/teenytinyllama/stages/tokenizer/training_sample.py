"""Documents spread evenly over a split, together no more than so many bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from teenytinyllama.artifacts.documents import Document, Split, read_documents
from teenytinyllama.progress import Progress


class Sample:
    """A choice of documents that the sizes decide alone: no seed, the same on every machine.

    `sizes` saves a reading of the split where another sample has done it.
    """

    def __init__(
        self, corpus_dir: Path, split: Split, max_bytes: int, *, sizes: array[int] | None = None
    ) -> None:
        self.corpus_dir, self.split = corpus_dir, split
        self.sizes = sizes or array(
            "q", (document.num_bytes for document in read_documents(corpus_dir, split))
        )
        self.num_documents_read, self.num_bytes_read = len(self.sizes), sum(self.sizes)
        self._kept = bytearray(len(self.sizes))
        self.num_documents_kept = self.num_bytes_kept = 0
        seen = 0
        for index, size in enumerate(self.sizes):
            seen += size
            # Keep up with the share of the text that has gone by, never ahead of it.
            if (self.num_bytes_kept + size) * self.num_bytes_read <= seen * max_bytes:
                self._kept[index] = 1
                self.num_documents_kept += 1
                self.num_bytes_kept += size

    def documents(self) -> Iterator[Document]:
        """The documents kept, in corpus order."""
        if not self.num_documents_kept:
            return
        documents = read_documents(self.corpus_dir, self.split)
        for keep, document in zip(self._kept, documents, strict=True):
            if keep:
                yield document

    def texts(self) -> Iterator[str]:
        """Their texts."""
        return (document.text for document in self.documents())


def watched(texts: Iterable[str], work: Progress) -> Iterator[str]:
    """The texts as they come, their megabytes counted by `work`."""
    for text in texts:
        yield text
        work.advance(len(text.encode("utf-8")) / 1e6)
