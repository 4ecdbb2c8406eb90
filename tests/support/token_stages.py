"""Small corpora, and the tokenizer and pack stages run on them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from teenytinyllama.artifacts.documents import Document, DocumentWriter
from teenytinyllama.settings.data_preparation import PackSettings, TokenizerSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.pack import stage as pack
from teenytinyllama.stages.tokenizer import stage as tokenizer


def write_corpus(folder: Path, train: list[tuple[str, str]], heldout: list[str]) -> Path:
    """A corpus of (source, text) pairs to train on and of held-out texts."""
    with DocumentWriter(folder, "train") as one, DocumentWriter(folder, "heldout") as other:
        for index, (source, text) in enumerate(train):
            one.write(Document(str(index), text, source, "CC0-1.0"))
        for index, text in enumerate(heldout):
            other.write(Document(f"h{index}", text, "a", "CC0-1.0"))
    return folder


def write_texts(folder: Path, texts: list[str]) -> Path:
    """A corpus of these training texts and one held-out document."""
    return write_corpus(folder, [("a", text) for text in texts], ["Um texto à parte."])


def train_tokenizer(
    corpus_dir: Path, out_dir: Path, context: StageContext, **settings: object
) -> StageResult:
    out_dir.mkdir(exist_ok=True)
    return tokenizer.run(
        settings=TokenizerSettings.model_validate(settings),
        context=context,
        out_dir=out_dir,
        corpus_dir=corpus_dir,
    )


def pack_corpus(
    corpus_dir: Path,
    tokenizer_dir: Path,
    out_dir: Path,
    context: StageContext,
    settings: PackSettings | None = None,
) -> StageResult:
    out_dir.mkdir(exist_ok=True)
    return pack.run(
        settings=settings or PackSettings(),
        context=context,
        out_dir=out_dir,
        corpus_dir=corpus_dir,
        tokenizer_dir=tokenizer_dir,
    )


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
