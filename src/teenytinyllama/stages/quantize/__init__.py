"""ROOM quantize: a model to small files, each loaded back and compared before it is called done.

`quantized/model-<format>.gguf`: for llama.cpp, Ollama, LM Studio. The chat model where there is
one, else the base model. A file that loses more than the recipe allows is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from teenytinyllama.context import RoomContext
from teenytinyllama.formats.encoding import load_tokenizer
from teenytinyllama.formats.manifest import Outcome
from teenytinyllama.formats.pieces import read_vocabulary
from teenytinyllama.progress import say
from teenytinyllama.recipe import QuantizeSettings
from teenytinyllama.stages.quantize.compare import (
    load_gguf,
    load_original,
    losses,
    read_sample,
    refuse_if_worse,
    take_sample,
)
from teenytinyllama.stages.quantize.gguf_file import check_vocabulary, write_gguf
from teenytinyllama.stages.quantize.weights import ModelFolder


def run(
    *,
    settings: QuantizeSettings,
    context: RoomContext,
    out_dir: Path,
    corpus_dir: Path,
    tokenizer_dir: Path,
    pretrain_dir: Path,
    align_dir: Path | None = None,
) -> Outcome:
    """Write one file per format and measure what each lost on held-out documents.

    The figures are nested by format: size, bits per byte, their increase, how often the most
    likely token is the same, and the largest difference of a logit.
    """
    folder = (align_dir or pretrain_dir) / "final"
    model = ModelFolder(folder)
    vocabulary, encoder = read_vocabulary(tokenizer_dir), load_tokenizer(tokenizer_dir)
    check_vocabulary(model, vocabulary)
    model.check()
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
    figures: dict[str, Any] = {
        "original": {
            "bits_per_byte": original.bits_per_byte,
            "size_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        }
    }
    for name in settings.formats:
        path = out_dir / f"model-{name}.gguf"
        write_gguf(model, vocabulary, name, path, title=context.run_name)
        back = read_sample(load_gguf(path, device), sample, f"quantize: read with {path.name}")
        found = losses(original, back)
        refuse_if_worse(found, settings.max_bits_per_byte_increase, [path])
        figures[name] = {"size_bytes": path.stat().st_size, **found}
        say(
            f"quantize: {path.name} {path.stat().st_size / 1e6:.1f} MB, bits per byte "
            f"{original.bits_per_byte:.4f} -> {back.bits_per_byte:.4f}, most likely token the "
            f"same at {found['same_best_token']:.2%} of places"
        )
    counts = {
        "documents_compared": sample.num_documents,
        "tokens_compared": sample.num_predicted,
        "bytes_compared": sample.num_bytes,
        "files": len(settings.formats),
    }
    return Outcome(counts=counts, figures=figures)
