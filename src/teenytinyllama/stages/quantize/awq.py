"""AWQ 4-bit weights (W4A16, symmetric) by llm-compressor, in the format vLLM and transformers load.

Embedding and output matrix stay in 16 bits, so that a small model shrinks to about half, not to a
quarter. Symmetric on purpose: files with zero points do not load in every transformers release.
Calibrated on the run's own training text; works on a CPU.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from teenytinyllama.artifacts.documents import read_documents
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError, missing_extra
from teenytinyllama.stages.quantize.tensor_reader import ModelFolder

logger = logging.getLogger(__name__)


GROUP_SIZES = (128, 64, 32)  # what vLLM's kernels know, coarsest first
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def group_size_for(model: ModelFolder) -> int:
    """The largest group of weights with one scale that divides every row of this model.

    Raises UserError where none does.
    """
    widths = {shape[-1] for name, shape in model.shapes().items() if "_proj." in name}
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    what = f"its widths {sorted(widths)} are no multiples of {GROUP_SIZES[-1]}"
    raise UserError("quantize-shape", str(model.folder), what, 'quantize.formats = ["q8_0"]')


def calibration_rows(
    corpus_dir: Path, encoder: TextEncoder, *, num_rows: int, row_length: int
) -> list[list[int]]:
    """Rows of training text, documents end to end, for the search of the scales."""
    ids: list[int] = []
    for document in read_documents(corpus_dir, "train"):
        ids += encoder.encode_document(document.text)
        if len(ids) >= num_rows * row_length:
            break
    row_length = min(row_length, len(ids))
    starts = range(0, len(ids) - row_length + 1, row_length)
    return [ids[start : start + row_length] for start in starts][:num_rows]


def write_awq(
    model: ModelFolder, tokenizer_dir: Path, rows: Sequence[Sequence[int]], path: Path
) -> None:
    """Write the folder `path`, at its final name only when it is whole.

    Raises UserError where llm-compressor is not installed or the model's widths do not fit.
    """
    group_size = group_size_for(model)
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    logger.info(
        f"quantize: AWQ on {len(rows)} rows of {len(rows[0])} tokens, groups of {group_size}"
    )
    _compress(model.folder, rows, temporary, group_size)
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).is_file():
            shutil.copy(tokenizer_dir / name, temporary / name)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def _compress(folder: Path, rows: Sequence[Sequence[int]], out: Path, group_size: int) -> None:
    # Its lines and bars go past our one line of progress; it chooses where on being imported.
    silence = io.StringIO()
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    with (
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        _compress_loudly(folder, rows, out, group_size)


def _compress_loudly(
    folder: Path, rows: Sequence[Sequence[int]], out: Path, group_size: int
) -> None:
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
    if not torch.accelerator.is_available():
        # llm-compressor 0.14 asks for pinned memory of a device that is not there.
        IntermediatesCache.pin_memory = lambda self, *args, **options: None
    loaded: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
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


def weights_bytes(path: Path) -> int:
    """Size of the weights of a model folder."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
