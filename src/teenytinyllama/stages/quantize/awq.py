"""AWQ 4-bit weights (W4A16, symmetric) by llm-compressor, for vLLM and transformers.

Embedding and output matrix stay in 16 bits, so a small model shrinks to about half, not a quarter.
Symmetric, because not every release of transformers loads files with zero points. Calibrated on the
run's own training text; works on a CPU. Lin et al. 2023, arXiv:2306.00978.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from teenytinyllama.artifacts.documents import read_documents
from teenytinyllama.artifacts.manifest import sync_folder, sync_tree
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.stages.quantize.tensor_reader import TensorReader

logger = logging.getLogger(__name__)

GROUP_SIZES = (128, 64, 32)  # that vLLM's kernels support, the smallest file first
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def group_size_for(model: TensorReader) -> int:
    """The largest group of weights with one scale that divides every row of this model.

    Raises UserError where none does.
    """
    widths = {shape[-1] for name, shape in model.shapes().items() if "_proj." in name}
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    what = f"its widths {sorted(widths)} are not multiples of {GROUP_SIZES[-1]}"
    raise UserError("quantize-shape", str(model.folder), what, 'quantize.formats = ["q8_0"]')


def calibration_rows(
    corpus_dir: Path, encoder: TextEncoder, *, num_rows: int, row_length: int
) -> list[list[int]]:
    """Rows of concatenated training documents, to choose the scales on."""
    ids: list[int] = []
    for document in read_documents(corpus_dir, "train"):
        ids += encoder.encode_document(document.text)
        if len(ids) >= num_rows * row_length:
            break
    row_length = min(row_length, len(ids))
    starts = range(0, len(ids) - row_length + 1, row_length)
    return [ids[start : start + row_length] for start in starts][:num_rows]


def write_awq(
    model: TensorReader, tokenizer_dir: Path, rows: Sequence[Sequence[int]], path: Path
) -> None:
    """Write a model folder, which appears at `path` only when it is complete.

    Raises UserError where llm-compressor is not installed or the model's widths do not fit.
    """
    group_size = group_size_for(model)
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    logger.info(
        f"quantize: AWQ on {len(rows)} rows of {len(rows[0])} tokens, groups of {group_size}"
    )
    with _silenced():
        _compress(model.folder, rows, temporary, group_size)
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).is_file():
            shutil.copy(tokenizer_dir / name, temporary / name)
    shutil.rmtree(path, ignore_errors=True)
    sync_tree(temporary)
    temporary.rename(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hides llm-compressor's lines and bars. It must be imported within: it keeps that stderr."""
    log = logging.getLogger("torch.fx")
    level = log.level
    log.setLevel(logging.ERROR)
    silence = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _pinned_memory_only_on_accelerator(cache_class: Any) -> Iterator[None]:
    """llm-compressor 0.14 pins memory, which fails on a machine without an accelerator."""
    before = cache_class.pin_memory
    if not torch.accelerator.is_available():
        cache_class.pin_memory = lambda self, *args, **options: None
    try:
        yield
    finally:
        cache_class.pin_memory = before


def _compress(folder: Path, rows: Sequence[Sequence[int]], out: Path, group_size: int) -> None:
    try:
        import datasets
        from compressed_tensors.quantization import (
            QuantizationArgs,
            QuantizationScheme,
            QuantizationStrategy,
        )
        from llmcompressor import oneshot
        from llmcompressor.modifiers.quantization import QuantizationModifier
        from llmcompressor.modifiers.transform.awq import AWQModifier
        from llmcompressor.pipelines.cache import IntermediatesCache
    except ImportError as error:
        raise missing_extra("llmcompressor", "awq") from error
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    weights = QuantizationArgs(
        num_bits=4,
        type="int",
        symmetric=True,
        strategy=QuantizationStrategy.GROUP,
        group_size=group_size,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    calibration = datasets.Dataset.from_dict(
        {"input_ids": [list(row) for row in rows], "attention_mask": [[1] * len(r) for r in rows]}
    )
    with _pinned_memory_only_on_accelerator(IntermediatesCache):
        oneshot(
            model=loaded,
            dataset=calibration,
            recipe=[
                AWQModifier(duo_scaling="both"),
                QuantizationModifier(ignore=["lm_head"], config_groups={"group_0": scheme}),
            ],
            max_seq_length=len(rows[0]),
            num_calibration_samples=len(rows),
            shuffle_calibration_samples=False,
        )
    loaded.save_pretrained(out, save_compressed=True)
