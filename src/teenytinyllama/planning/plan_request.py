"""What a plan is made for: a budget, GPUs and text. Checked here, before any arithmetic."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.planning.corpus_size import measure_corpus
from teenytinyllama.planning.curve_fit import FittedLaw
from teenytinyllama.planning.reference_data import Gpu, gpus, law_names
from teenytinyllama.progress import format_bytes
from teenytinyllama.settings.base import expand_path
from teenytinyllama.settings.training import ModelSettings

logger = logging.getLogger(__name__)

PORTUGUESE_BYTES_PER_CHARACTER = 1.03
# Entropy of single characters up to which a token holds as many of them as in Portuguese (4.4).
ALPHABET_BITS = 5.5
MIN_CONTEXT, MAX_CONTEXT = 64, 1 << 17
DEFAULT_CONTEXT, CPU_CONTEXT = 2048, 512
# Where no text is named the plan says how much it needs: text must not be the limit.
PLENTY_OF_TEXT_BYTES = 1e12
# What the option may be, for the error about a number that it cannot be.
EXAMPLES = {
    "--budget-usd": "50",
    "--hours": "10",
    "--text-mb": "500",
    "--gpus": "1",
    "--tokens": "1000000000",
    "--max-epochs": "4",
    "--peak-tflops": "0.15",
    "--mfu": "0.4",
    "--scaling-efficiency": "0.9",
}


@dataclass(frozen=True)
class PlanRequest:
    """What the user has. Money or hours, not both; unique tokens, or bytes to estimate them."""

    gpu: Gpu
    usd_per_hour: float
    text_bytes: float
    budget_usd: float | None = None
    budget_hours: float | None = None
    unique_tokens: float | None = None
    bytes_per_character: float = PORTUGUESE_BYTES_PER_CHARACTER
    bits_per_character: float = ALPHABET_BITS
    different_words: float = math.inf
    # Letters that the vocabulary must have space for.
    num_letters: int = 0
    # Whether the user said how much text there is.
    has_text: bool = True
    text_key: str = "text"
    # By ending of the files' names, where they differ; see `CorpusSize`.
    text_keys: Mapping[str, str] = field(default_factory=dict)
    num_gpus: int = 1
    # Model FLOPs over the data sheet's peak, as a run on one GPU prints it.
    mfu: float = 0.4
    # What N GPUs reach together, over N times what one reaches.
    scaling_efficiency: float = 1.0
    # Share of the budget that is kept for evaluation, fine-tuning, chat and things going wrong.
    reserve_fraction: float = 0.1
    # Power of the machine besides the GPU (CPU and memory), modelled.
    host_power_w: float = 75.0
    max_epochs: float = 16.0
    sequence_length: int = DEFAULT_CONTEXT
    country: str = "BRA"
    law: str = "besiroglu"
    fitted: FittedLaw | None = None
    model: ModelSettings | None = None
    vocab_size: int | None = None

    @property
    def hours(self) -> float:
        """Hours of training that the budget buys, without the reserve."""
        if self.budget_hours is not None:
            hours = self.budget_hours
        else:
            assert self.budget_usd is not None
            hours = self.budget_usd / (self.usd_per_hour * self.num_gpus)
        return hours * (1 - self.reserve_fraction)

    @property
    def flops(self) -> float:
        """FLOPs of the training hours at the given utilisation."""
        return self.hours * 3600 * self.flops_per_s

    @property
    def flops_per_s(self) -> float:
        """Model FLOP/s of all GPUs together."""
        shared = self.scaling_efficiency if self.num_gpus > 1 else 1.0
        return self.gpu.peak_tflops * 1e12 * self.mfu * self.num_gpus * shared


def request_from_options(
    *,
    gpu: str,
    usd_per_hour: float | None,
    text_mb: float | None,
    text: str,
    peak_tflops: float | None,
    sequence_length: int | None,
    **more: Any,
) -> PlanRequest:
    """The request that command-line options describe. Raises UserError naming the wrong option.

    `text`: a file, folder or glob to measure; `more`: fields of PlanRequest.
    """
    if gpu not in gpus():
        what = f'no GPU "{gpu}", only {", ".join(gpus())}'
        near = difflib.get_close_matches(gpu.lower(), gpus(), n=1, cutoff=0.0)[0]
        fix = f"--gpu {near}, or the nearest to yours with --peak-tflops"
        raise UserError("gpu-unknown", "--gpu", what, fix)
    if more["law"] not in law_names():
        fix = did_you_mean(more["law"], law_names())
        raise UserError("law-unknown", "--law", f'no law "{more["law"]}"', fix)
    card = gpus()[gpu]
    if peak_tflops is not None:
        card = replace(card, peak_tflops=peak_tflops)
    if sequence_length is None:
        sequence_length = CPU_CONTEXT if gpu == "cpu" else DEFAULT_CONTEXT
    return PlanRequest(
        gpu=card,
        usd_per_hour=card.usd_per_hour if usd_per_hour is None else usd_per_hour,
        sequence_length=sequence_length,
        **_text_options(text_mb, text),
        **more,
    )


def _text_options(text_mb: float | None, text: str) -> dict[str, Any]:
    """Bytes of text; with a path also what a sample of the text shows."""
    if not text and text_mb is None:
        return {"text_bytes": PLENTY_OF_TEXT_BYTES, "has_text": False}
    if not text:
        assert text_mb is not None
        return {"text_bytes": text_mb * 1e6}
    paths = expand_path(text)
    if not paths:
        raise UserError("text-missing", "--text", f'no file at "{text}"', "check the path")
    found = measure_corpus(paths)
    logger.info(
        f"text: about {format_bytes(found.text_bytes)} in {found.num_files:,} files, by their "
        f"sizes and a sample of {format_bytes(found.sampled_bytes)}"
    )
    return {
        "text_bytes": found.text_bytes if text_mb is None else text_mb * 1e6,
        "bytes_per_character": found.bytes_per_character,
        "bits_per_character": found.bits_per_character,
        "different_words": found.different_words,
        "num_letters": found.num_letters,
        "text_key": found.text_key,
        "text_keys": found.text_keys,
    }


def check_request(request: PlanRequest) -> None:
    """Raise UserError for a budget, price or number that no plan can be made for."""
    if (request.budget_usd is None) == (request.budget_hours is None):
        if request.budget_usd is None:
            what, fix = "neither money nor hours are given", "--budget-usd 50, or --hours 10"
        else:
            what, fix = "both --budget-usd and --hours are given", "leave one of them out"
        raise UserError("plan-budget", "--budget-usd", what, fix)
    if request.budget_usd is not None and not request.usd_per_hour:
        what = f"{request.gpu.title} has no price"
        fix = "--usd-per-hour 1.5 (or what it costs you), or --hours instead of --budget-usd"
        raise UserError("plan-price", "--gpu", what, fix)
    amounts = {"--budget-usd": request.budget_usd, "--hours": request.budget_hours}
    amounts |= {"--text-mb": request.text_bytes / 1e6, "--gpus": request.num_gpus}
    amounts |= {"--tokens": request.unique_tokens, "--max-epochs": request.max_epochs}
    if not request.has_text:
        del amounts["--text-mb"]
    amounts |= {"--peak-tflops": request.gpu.peak_tflops}
    for name, value in amounts.items():
        if value is not None and not 0 < value < math.inf:
            what = f"expected more than 0, got {value}"
            raise UserError("plan-value", name, what, f"{name} {EXAMPLES[name]}, for example")
    if not 0 <= request.usd_per_hour < math.inf:
        what = f"expected 0 or more, got {request.usd_per_hour}"
        fix = "--usd-per-hour 1.5, the price of one GPU's hour"
        raise UserError("plan-value", "--usd-per-hour", what, fix)
    if not MIN_CONTEXT <= request.sequence_length <= MAX_CONTEXT:
        what = f"expected {MIN_CONTEXT} to {MAX_CONTEXT:,} tokens, got {request.sequence_length:,}"
        raise UserError(
            "plan-value", "--sequence-length", what, "--sequence-length 512, or 1024 or 2048"
        )
    shares = {"--mfu": request.mfu, "--scaling-efficiency": request.scaling_efficiency}
    for name, value in shares.items():
        if not 0 < value <= 1:
            what = f"expected a share above 0 and at most 1, got {value}"
            fix = f"{name} {EXAMPLES[name]}, or what a run of yours reached"
            raise UserError("plan-value", name, what, fix)
