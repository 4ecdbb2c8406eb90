"""Stage tokenizer: train a vocabulary on the training documents (paper 3.3, Table 1)."""

from __future__ import annotations

import logging
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.progress import Progress
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.data_preparation import TokenizerSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.tokenizer.byte_level_bpe import train_byte_level
from teenytinyllama.stages.tokenizer.hf_export import (
    EDGE_TEXTS,
    verify_equal_ids,
    write_tokenizer_files,
)
from teenytinyllama.stages.tokenizer.sentencepiece_training import (
    DocumentSample,
    check_letters,
    check_memory,
    count_words,
    train_model,
    with_letters,
    with_progress,
    without_rare_words,
)
from teenytinyllama.stages.tokenizer.tokenizer_metrics import (
    metrics_by_source,
    open_tokenizer,
    read_text,
    table_1_row,
)

logger = logging.getLogger(__name__)

MAX_BYTES_COMPARED = 500_000  # the reference tokenizers read only 2 MB/s
MAX_BYTES_MEASURED = 20_000_000


def run(
    *, settings: TokenizerSettings, context: StageContext, out_dir: Path, corpus_dir: Path
) -> StageResult:
    """Write the Hugging Face files and, of a SentencePiece vocabulary, `tokenizer.model`.

    All of them are verified to give equal ids on text of the run. The metrics are those of Table 1
    on held-out documents. Raises UserError if the corpus, the memory or the character coverage is
    too small, or if the files give different ids.
    """
    settings = with_letters(settings, context.language)
    sample = DocumentSample(corpus_dir, "train", settings.max_training_bytes)
    if sample.num_bytes_kept < sample.num_bytes_read:
        logger.info(
            f"tokenizer: training on {sample.num_documents_kept:,} of "
            f"{sample.num_documents_read:,} documents, spread evenly (max_training_bytes)"
        )
    check_memory(sample.num_bytes_kept, _free_memory_bytes())
    with Progress("tokenizer: count words", total=sample.num_bytes_kept / 1e6, unit="MB") as work:
        counts = count_words(with_progress(sample.texts(), work))
    common = without_rare_words(counts, settings.vocab_size)
    check_memory(sample.num_bytes_kept, _free_memory_bytes(), common)
    with Progress("tokenizer: train", unit="words") as work:
        if settings.model == "byte-level":
            model = write_tokenizer_files(train_byte_level(common, settings.vocab_size), out_dir)
        else:
            model = write_tokenizer_files(train_model(common, settings), out_dir)
        work.advance(len(common))
    encoder = load_tokenizer(out_dir)
    if settings.model != "byte-level":  # there every letter has its bytes
        check_letters(counts, encoder.tokens)
    few = DocumentSample(corpus_dir, "train", MAX_BYTES_COMPARED, sizes=sample.sizes)
    with Progress("tokenizer: compare", total=few.num_bytes_kept / 1e6, unit="MB") as work:
        compared = verify_equal_ids(
            model, out_dir, with_progress(chain(few.texts(), EDGE_TEXTS), work)
        )
    heldout = DocumentSample(corpus_dir, "heldout", MAX_BYTES_MEASURED).documents()
    return StageResult(
        counts={
            "documents_read": sample.num_documents_read,
            "documents_trained_on": sample.num_documents_kept,
            "bytes_read": sample.num_bytes_read,
            "bytes_trained_on": sample.num_bytes_kept,
            "different_words": len(counts),
            "words_trained_on": len(common),
            "vocab_size": encoder.vocab_size,
            "letters_required": len(set(settings.required_letters)),
            "letters_with_token": len(set(settings.required_letters) & set(encoder.tokens)),
            **compared,
        },
        metrics={**metrics_by_source(heldout, encoder), **_table_1(settings, out_dir)},
    )


def _table_1(settings: TokenizerSettings, out_dir: Path) -> dict[str, list[dict[str, Any]]]:
    if not settings.measure_text:
        return {}
    text = read_text(user_path(settings.measure_text))
    rows = [table_1_row(open_tokenizer("this run", out_dir), text)]
    for name in settings.measure_against:
        rows.append(table_1_row(open_tokenizer(name, user_path(name)), text))
    for row in rows:
        logger.info(
            f"tokenizer: {row['tokens_per_word']:.3f} tokens per word with {row['tokenizer']}"
        )
    return {"table_1": rows}


def _free_memory_bytes() -> int:
    """Memory available without swapping; unlimited if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return sys.maxsize
    free = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return sys.maxsize if free is None else int(free.split()[1]) * 1024
