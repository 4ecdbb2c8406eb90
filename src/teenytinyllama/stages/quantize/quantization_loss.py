"""What quantization costs: bits per byte and the most likely token, on held-out documents.

Both models read the same tokens, so a small sample is enough: the difference of two losses on the
same text is known far more exactly than either loss.
"""

# T tokens of one window, V vocabulary

from __future__ import annotations

import contextlib
import io
import math
import shutil
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from teenytinyllama.artifacts.documents import read_documents
from teenytinyllama.artifacts.tokenizer import TextEncoder
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.loading import CausalModel
from teenytinyllama.process_group import ALONE, ProcessGroup
from teenytinyllama.progress import Progress

MAX_KEPT_LOGITS = 256  # tokens whose logits are kept for `max_logit_difference`


@dataclass(frozen=True)
class HeldoutSample:
    """Held-out text in windows of at most the model's context; neighbours share one token."""

    windows: tuple[tuple[int, ...], ...]
    num_bytes: int
    num_documents: int

    @property
    def num_predicted(self) -> int:
        """Predicted tokens: all but the first of each document."""
        return sum(len(window) - 1 for window in self.windows)


@dataclass(frozen=True)
class SampleScore:
    """What one model predicts on the sample; places are those of this process's windows."""

    bits_per_byte: float  # of the whole sample
    best: Tensor  # (K,): the most likely token at each place
    logits: Tensor  # (at most MAX_KEPT_LOGITS, V)


def take_sample(
    corpus_dir: Path, encoder: TextEncoder, *, max_tokens: int, context: int
) -> HeldoutSample:
    """The first held-out documents, until `max_tokens` are predicted.

    A document that does not fit ends the sample; if it is the first, it is cut, and its bytes are
    counted up to the cut. Raises UserError where there is no held-out text.
    """
    windows: list[tuple[int, ...]] = []
    num_bytes = num_documents = num_tokens = 0
    for document in read_documents(corpus_dir, "heldout"):
        ids, size = encoder.encode_document(document.text), document.num_bytes
        if num_tokens + len(ids) - 1 > max_tokens:
            if num_documents:
                break
            ids = ids[: max_tokens + 1]
            size = len(encoder.decode(ids).encode("utf-8"))
        num_tokens += len(ids) - 1
        num_bytes += size
        num_documents += 1
        windows += [
            tuple(ids[start : start + context + 1]) for start in range(0, len(ids) - 1, context)
        ]
    if not num_bytes:
        what = "no held-out text to compare with"
        raise UserError("heldout-empty", str(corpus_dir), what, "raise corpus.heldout_fraction")
    return HeldoutSample(tuple(windows), num_bytes, num_documents)


@torch.inference_mode()
def score_sample(
    model: CausalModel, sample: HeldoutSample, title: str, processes: ProcessGroup = ALONE
) -> SampleScore:
    """Score one model on the sample. Raises UserError where the loss is not finite.

    Several processes share the windows; the loss has the bits of one process.
    """
    device = model.device
    nats: list[float] = []
    best = [torch.zeros(0, dtype=torch.long)]
    kept = [torch.zeros(0, model.config.vocab_size)]
    starts = [0, *accumulate(len(window) - 1 for window in sample.windows)]
    mine = processes.share(list(zip(starts, sample.windows, strict=False)))
    total = sum(len(window) - 1 for _, window in mine)
    with Progress(title, total=total, unit="tokens") as work:
        for start, window in mine:
            ids = torch.tensor([window], device=device)
            logits = model(ids[:, :-1]).logits[0].float()  # (T, V)
            nats.append(float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum")))
            best.append(logits.argmax(-1).cpu())
            kept.append(logits[: max(0, MAX_KEPT_LOGITS - start)].cpu())
            work.advance(len(window) - 1)
    bits_per_byte = sum(processes.collect(nats)) / math.log(2) / sample.num_bytes
    if not math.isfinite(bits_per_byte):
        what = "the loss on held-out text is NaN or infinite"
        raise UserError("model-not-finite", title, what, "use an earlier checkpoint")
    return SampleScore(bits_per_byte, torch.cat(best), torch.cat(kept))


def compare_scores(
    original: SampleScore, quantized: SampleScore, processes: ProcessGroup = ALONE
) -> dict[str, float]:
    """What quantization lost, as metrics of the manifest."""
    same = processes.gather([int((quantized.best == original.best).sum()), len(original.best)])
    differences = (quantized.logits - original.logits).abs()
    [largest] = processes.largest([float(differences.max()) if len(differences) else 0.0])
    return {
        "sample_bits_per_byte": quantized.bits_per_byte,
        "sample_bits_per_byte_increase": quantized.bits_per_byte / original.bits_per_byte - 1,
        "same_best_token": sum(one for one, _ in same) / sum(of for _, of in same),
        "max_logit_difference": largest,
    }


def check_loss(increase: float, allowed: float, path: Path) -> None:
    """Remove the file or folder and raise UserError where bits per byte grew too much."""
    if increase <= allowed:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    raise UserError(
        "quantize-loss",
        path.name,
        f"bits per byte grow by {increase:.2%}, the recipe allows {allowed:.2%}",
        "choose a finer format, or raise quantize.max_bits_per_byte_increase",
    )


def load_model(path: Path) -> CausalModel:
    """A model folder or a GGUF file in fp32, on the GPU where there is one.

    transformers reads the file, with code of its own: an error of our writer would show.
    """
    is_file = path.suffix == ".gguf"
    folder, options = (path.parent, _gguf_options(path)) if is_file else (path, {})
    transformers_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars that cannot be disabled
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, **options
            )
            with torch.inference_mode():
                model(torch.tensor([[0]]))  # unpacks packed weights
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"does not load ({reason})"
        raise UserError("quantize-unreadable", str(path), what, "report it: a bug") from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _gguf_options(path: Path) -> dict[str, Any]:
    """What transformers must be told to read a GGUF file: it does not read a Qwen3's head size."""
    fields = gguf.GGUFReader(path).fields
    size = fields.get("qwen3.attention.key_length")
    return {"gguf_file": path.name} | ({"head_dim": int(size.contents())} if size else {})
