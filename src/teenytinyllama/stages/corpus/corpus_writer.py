"""Second pass: writes both splits, dropped documents with their text, and pairs of duplicates."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import zstandard

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.progress import Progress
from teenytinyllama.stages.corpus.staging import CorpusState, outcome_of
from teenytinyllama.stages.corpus.steps import CorpusSteps

DROPPED_DIR = "dropped"


class CorpusWriter:
    """Writes every document of the staging file to its place, and counts it."""

    def __init__(self, out_dir: Path, state: CorpusState, steps: CorpusSteps) -> None:
        self.out_dir, self.state, self.steps = out_dir, state, steps

    def run(self) -> dict[str, int]:
        """Write everything; counts of documents and bytes per split.

        No two documents that are written have the same text, but for the copies of the mixture,
        which are of the training split: so the splits share none.
        """
        index, title = self.state.index, "corpus: write"
        with ExitStack() as stack, Progress(title, total=len(index), unit="documents") as work:
            writers = {
                name: stack.enter_context(DocumentWriter(self.out_dir, name))
                for name in ("train", "heldout")
            }
            for row, record in chain.from_iterable(self.state.texts.batches()):
                work.advance()
                document = Document(**record)
                document.id = index.unique_id(row, document.id)
                self.steps.revise(row, document)
                reason = index.reason(row)
                self.state.stats.add(
                    index.source(row), outcome_of(reason), reason, index.num_bytes[row]
                )
                if reason and reason not in writers:
                    folder = self.out_dir / DROPPED_DIR / reason
                    writers[reason] = stack.enter_context(DocumentWriter(folder, "part"))
                split = "heldout" if index.is_heldout(row) else "train"
                writers[reason or split].write(document)
                for copy in range(2, 1 if reason else index.copies.get(row, 1) + 1):
                    writers[split].write(replace(document, id=f"{document.id}@{copy}"))
        self._write_duplicates()
        train, heldout = writers["train"], writers["heldout"]
        return {
            "documents_train": train.num_documents,
            "documents_heldout": heldout.num_documents,
            "bytes_train": train.num_bytes,
            "bytes_heldout": heldout.num_bytes,
        }

    def _write_duplicates(self) -> None:
        """`duplicates.jsonl.zst`: which document is a copy of which, clusters together."""
        index = self.state.index
        pairs = sorted((kept, row) for row, kept in index.duplicate_of.items())
        if not pairs:
            return
        wanted = {row for pair in pairs for row in pair}
        found = chain.from_iterable(self.state.texts.batches(wanted))
        ids = {row: index.unique_id(row, record["id"]) for row, record in found}
        lines = [
            json.dumps(
                {
                    "kept": ids[kept],
                    "dropped": ids[row],
                    "kind": index.reason(row),
                    "similarity": index.similarity.get(row, 1.0),
                },
                ensure_ascii=False,
            )
            for kept, row in pairs
        ]
        compressed = zstandard.ZstdCompressor(level=3).compress(("\n".join(lines) + "\n").encode())
        (self.out_dir / "duplicates.jsonl.zst").write_bytes(compressed)
