"""ROOM pack: documents to token sequences.

Every document becomes BOS ... EOS; all are laid end to end in a seeded order, so that every token
made from the text is a token on disk and none is added or cut.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from teenytinyllama.context import RoomContext
from teenytinyllama.formats.documents import Document, Split, read_documents
from teenytinyllama.formats.encoding import TextEncoder, load_tokenizer
from teenytinyllama.formats.manifest import Outcome
from teenytinyllama.formats.tokens import TokenWriter, write_index
from teenytinyllama.progress import Progress
from teenytinyllama.recipe import PackSettings

SPLITS: tuple[Split, ...] = ("train", "heldout")


def run(
    *,
    settings: PackSettings,
    context: RoomContext,
    out_dir: Path,
    corpus_dir: Path,
    tokenizer_dir: Path,
) -> Outcome:
    """Encode both splits; leave `train.bin`, `heldout.bin`, their borders and `index.json`."""
    encoder = load_tokenizer(tokenizer_dir)
    entries = {}
    for split in SPLITS:
        documents = list(read_documents(corpus_dir, split))
        entries[split] = _pack(documents, split, encoder, settings.seed, out_dir)
    write_index(out_dir, encoder.vocab_size, encoder.fingerprint, entries)
    return Outcome(
        counts={
            f"{what}_{split}": entries[split][f"num_{what}"]
            for what in ("tokens", "documents")
            for split in SPLITS
        },
        figures={},
    )


def _pack(
    documents: list[Document], split: Split, encoder: TextEncoder, seed: int, out_dir: Path
) -> dict[str, object]:
    total = sum(document.num_bytes for document in documents) / 1e6
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(documents))
    with (
        TokenWriter(out_dir, split, encoder.vocab_size) as writer,
        Progress(f"pack: {split}", total=total, unit="MB") as work,
    ):
        for index in order:
            writer.write(encoder.encode_document(documents[index].text))
            work.advance(documents[index].num_bytes / 1e6)
    return writer.entry
