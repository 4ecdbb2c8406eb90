"""STAGE quantize: a model to small files, each loaded back and compared before it is called done.

`quantize/model-<format>.gguf`: for llama.cpp, Ollama, LM Studio. `quantize/awq/`: for vLLM and
transformers on a GPU. The chat model where there is one, else the base model. A file that loses
more than the recipe allows is refused.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch

from teenytinyllama.artifacts.tokenizer import TextEncoder, load_tokenizer
from teenytinyllama.artifacts.vocabulary import Vocabulary, read_vocabulary
from teenytinyllama.errors import missing_extra
from teenytinyllama.settings.post_training import QuantizeSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.quantize.tensor_reader import ModelFolder

if importlib.util.find_spec("gguf") is None:
    raise missing_extra("gguf", "quantize")

from teenytinyllama.stages.quantize import awq, k_quants
from teenytinyllama.stages.quantize.gguf_writer import check_vocabulary, write_gguf
from teenytinyllama.stages.quantize.quantization_loss import (
    load_gguf,
    load_original,
    losses,
    read_sample,
    refuse_if_worse,
    take_sample,
)

logger = logging.getLogger(__name__)


def run(
    *,
    settings: QuantizeSettings,
    context: StageContext,
    out_dir: Path,
    corpus_dir: Path,
    tokenizer_dir: Path,
    pretrain_dir: Path,
    align_dir: Path | None = None,
) -> StageResult:
    """Write one file per format and measure what each lost on held-out documents.

    The figures are nested by format: size, bits per byte, their increase, how often the most
    likely token is the same, and the largest difference of a logit; where llama.cpp is
    installed, its speed and memory on the file.
    """
    folder = (align_dir or pretrain_dir) / "final"
    model = ModelFolder(folder)
    vocabulary, encoder = read_vocabulary(tokenizer_dir), load_tokenizer(tokenizer_dir)
    _check(settings, model, vocabulary)
    sample = take_sample(
        corpus_dir,
        encoder,
        max_tokens=settings.max_sample_tokens,
        context=model.config["max_position_embeddings"],
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_original(folder, device)
    original = read_sample(loaded, sample, "quantize: read with the original")
    del loaded
    metrics: dict[str, Any] = {
        "original": {
            "bits_per_byte": original.bits_per_byte,
            "size_bytes": awq.weights_bytes(folder),
        }
    }
    for name in settings.formats:
        if name == "awq":
            path = out_dir / "awq"
            awq.write_awq(model, tokenizer_dir, _rows(settings, corpus_dir, encoder), path)
            small, size_bytes = load_original(path, device), awq.weights_bytes(path)
        else:
            path = out_dir / f"model-{name}.gguf"
            write_gguf(
                model,
                vocabulary,
                name,
                path,
                title=context.run_name,
                answers=align_dir is not None,
            )
            small, size_bytes = load_gguf(path, device), path.stat().st_size
        back = read_sample(small, sample, f"quantize: read with {path.name}")
        del small
        found = losses(original, back)
        refuse_if_worse(found, settings.max_bits_per_byte_increase, path)
        metrics[name] = {"size_bytes": size_bytes, **found, **_speed(path, model)}
        logger.info(
            f"quantize: {path.name} {size_bytes / 1e6:.1f} MB, bits per byte "
            f"{original.bits_per_byte:.4f} -> {back.bits_per_byte:.4f}, most likely token the "
            f"same at {found['same_best_token']:.2%} of places"
        )
    counts = {
        "documents_compared": sample.num_documents,
        "tokens_compared": sample.num_predicted,
        "bytes_compared": sample.num_bytes,
        "files": len(settings.formats),
    }
    return StageResult(counts=counts, metrics=metrics)


def _check(settings: QuantizeSettings, model: ModelFolder, vocabulary: Vocabulary) -> None:
    """Say what cannot work before any work is done."""
    check_vocabulary(model, vocabulary)
    if "q4_k_m" in settings.formats:
        k_quants.check_installed()
    if "awq" in settings.formats:
        awq.group_size_for(model)
        if importlib.util.find_spec("llmcompressor") is None:
            raise missing_extra("llmcompressor", "awq")
    model.check()


def _rows(settings: QuantizeSettings, corpus_dir: Path, encoder: TextEncoder) -> list[list[int]]:
    return awq.calibration_rows(
        corpus_dir,
        encoder,
        num_rows=settings.num_calibration_rows,
        row_length=settings.calibration_row_tokens,
    )


def _speed(path: Path, model: ModelFolder) -> dict[str, float]:
    """llama.cpp's speed and peak memory on a GGUF file; nothing where it cannot be measured."""
    if path.suffix != ".gguf" or importlib.util.find_spec("xllamacpp") is None:
        return {}
    from teenytinyllama.stages.quantize.gguf_speed import measure

    vocab_size = model.config["vocab_size"]
    return measure(path, vocab_size=vocab_size, num_threads=torch.get_num_threads())
