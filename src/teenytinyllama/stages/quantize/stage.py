"""Stage quantize: a model to small files, each loaded again and compared with the original.

`quantize/model-<format>.gguf` is for llama.cpp, Ollama and LM Studio, `quantize/awq/` for vLLM and
transformers on a GPU. The chat model is quantized if there is one, else the base model. A file that
loses more than the recipe allows is refused.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.artifacts.vocabulary import Vocabulary, read_vocabulary
from teenytinyllama.errors import missing_extra
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.settings.post_training import QuantizeSettings
from teenytinyllama.stages.interface import StageContext, StageResult
from teenytinyllama.stages.quantize.tensor_reader import TensorReader

if importlib.util.find_spec("gguf") is None:
    raise missing_extra("gguf", "quantize")

from teenytinyllama.stages.quantize import awq, k_quants
from teenytinyllama.stages.quantize.gguf_metadata import gguf_metadata
from teenytinyllama.stages.quantize.gguf_writer import check_vocabulary, write_gguf
from teenytinyllama.stages.quantize.quantization_loss import (
    HeldoutSample,
    SampleScore,
    check_loss,
    compare_scores,
    load_model,
    score_sample,
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

    The metrics are nested by format: size, bits per byte of the sample (`evaluate` scores all
    held-out text, in other windows: these are other figures) and their increase, how often the most
    likely token is the same, the largest difference of a logit, and, where llama.cpp is
    installed, its speed and memory.
    """
    folder = (align_dir or pretrain_dir) / "final"
    model, vocabulary = TensorReader(folder), read_vocabulary(tokenizer_dir)
    encoder = load_tokenizer(tokenizer_dir)
    _check(settings, model, vocabulary)
    about = gguf_metadata(context, model, corpus_dir, align_dir)
    sample = take_sample(
        corpus_dir,
        encoder,
        max_tokens=settings.max_sample_tokens,
        context=model.config["max_position_embeddings"],
    )
    processes = context.processes
    original = score_sample(load_model(folder), sample, "quantize: score the original", processes)
    metrics: dict[str, Any] = {
        "original": {
            "sample_bits_per_byte": original.bits_per_byte,
            "size_bytes": _size_bytes(folder),
        }
    }

    def write(name: str, path: Path) -> None:
        if name == "awq":
            rows = awq.calibration_rows(
                corpus_dir,
                encoder,
                num_rows=settings.num_calibration_rows,
                row_length=settings.calibration_row_tokens,
            )
            awq.write_awq(model, tokenizer_dir, rows, path)
        else:
            write_gguf(model, vocabulary, name, path, about=about, is_chat=align_dir is not None)

    for name in settings.formats:
        path = out_dir / ("awq" if name == "awq" else f"model-{name}.gguf")
        if processes.is_leader:
            write(name, path)
        processes.wait()
        loss = _measure_loss(path, sample, original, settings.max_bits_per_byte_increase, processes)
        speed = _speed(path, model) if processes.is_leader else {}
        metrics[name] = {"size_bytes": _size_bytes(path), **loss, **speed}
    counts = {
        "documents_compared": sample.num_documents,
        "tokens_compared": sample.num_predicted,
        "bytes_compared": sample.num_bytes,
        "files": len(settings.formats),
    }
    return StageResult(counts=counts, metrics=metrics)


def _check(settings: QuantizeSettings, model: TensorReader, vocabulary: Vocabulary) -> None:
    """Raise UserError for what cannot work, before any work is done."""
    check_vocabulary(model, vocabulary)
    if "q4_k_m" in settings.formats:
        k_quants.load_library()
    if "awq" in settings.formats:
        awq.group_size_for(model)
        if importlib.util.find_spec("llmcompressor") is None:
            raise missing_extra("llmcompressor", "awq")
    model.check()


def _measure_loss(
    path: Path,
    sample: HeldoutSample,
    original: SampleScore,
    allowed: float,
    processes: ProcessGroup,
) -> dict[str, float]:
    """Load what was written and compare it; UserError where it lost more than `allowed`."""
    title = f"quantize: score {path.name}"
    quantized = score_sample(load_model(path), sample, title, processes)
    loss = compare_scores(original, quantized, processes)
    check_loss(loss["sample_bits_per_byte_increase"], allowed, path)
    logger.info(
        f"quantize: {path.name} {_size_bytes(path) / 1e6:.1f} MB, bits per byte of "
        f"{sample.num_predicted:,} held-out tokens "
        f"{original.bits_per_byte:.4f} -> {quantized.bits_per_byte:.4f}, most likely token "
        f"the same at {loss['same_best_token']:.2%} of places"
    )
    return loss


def _size_bytes(path: Path) -> int:
    """Size of a file, or of a model folder's weights."""
    files = path.glob("*.safetensors") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def _speed(path: Path, model: TensorReader) -> dict[str, float]:
    """llama.cpp's speed and peak memory on a GGUF file; empty where it cannot be measured."""
    if path.suffix != ".gguf" or importlib.util.find_spec("xllamacpp") is None:
        return {}
    from teenytinyllama.stages.quantize.gguf_speed import measure_speed

    vocab_size = model.config["vocab_size"]
    return measure_speed(path, vocab_size=vocab_size, num_threads=torch.get_num_threads())
