"""What this machine can do: software, memory, disk, speed, and what each stage lacks.

With a recipe: whether that run fits here, in how many hours and on how much disk. It takes the
import of torch and one second of measuring.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from teenytinyllama.datasheets import peak_tflops
from teenytinyllama.modeling.model_size import flops_per_token, num_parameters
from teenytinyllama.planning.recipe_cost import (
    PAPER_VOCAB_SIZE,
    available_memory_bytes,
    free_disk_bytes,
    needs_of,
)
from teenytinyllama.progress import format_bytes, format_duration
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.settings.training import ModelSettings

# Libraries by stage, and the extra that installs them; the base install has the others.
NEEDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "corpus": ("corpus", ("datasets", "pyarrow", "py3langid", "xxhash")),
    "evaluate": ("evaluate", ("lm_eval", "sklearn")),
    "quantize": ("quantize", ("gguf",)),
    "serve": ("serve", ("uvicorn", "starlette", "bm25s")),
}
# Optional extras: the extra, a library that is there when it is installed, and its use.
OPTIONAL: tuple[tuple[str, str, str], ...] = (
    ("web", "trafilatura", "text out of WARC pages"),
    ("spacy", "spacy", "datatrove's word rule"),
    ("glotlid", "fasttext", "language identification by fastText models"),
    ("machines", "datatrove", "corpus over many machines"),
    ("llama-cpp", "xllamacpp", "q4_k_m, and a check by llama.cpp"),
    ("awq", "llmcompressor", "4-bit AWQ weights"),
    ("lora", "peft", "LoRA"),
)
LOW_DISK_GB, LOW_MEMORY_GB = 5.0, 4.0
LONG_HOURS = 48.0
# fp32 weights, gradients, two moments; without activations.
TRAINING_BYTES_PER_PARAMETER = 16
MEMORY_SHARE = 0.85
# Share of the measured peak that training reaches (EXPERIMENTS.md: 0.28 to 0.48).
EXPECTED_SHARE = 0.35

Health = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Check:
    """One result; `fix` is what to type where something is missing."""

    name: str
    value: str
    health: Health = "good"
    fix: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All checks, the measured peak in TFLOP/s (bf16 on a GPU, fp32 on a CPU), the next command."""

    checks: tuple[Check, ...]
    device: str
    peak_tflops: float
    next_command: str

    def to_json(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self)


def examine(folder: Path, recipe: Recipe | None = None, recipe_path: str = "") -> DoctorReport:
    """Check the machine and the disk of `folder`, and what a recipe needs of both."""
    checks = [*_software(), *_memory(), *_disk(folder)]
    device, peak, memory, found = _device()
    checks += found
    if recipe is None or recipe.pretrain is None:
        checks += _model_size(memory) if device else ()
    else:
        checks += _recipe_checks(recipe, recipe.pretrain, folder, memory, peak)
    checks += [*_stages(recipe), *_optional()]
    next_command = _next(checks, device, peak, folder, recipe_path)
    return DoctorReport(tuple(checks), device, peak, next_command)


def _software() -> Iterator[Check]:
    good = sys.version_info[:2] in ((3, 11), (3, 12))
    yield Check(
        "python",
        platform.python_version(),
        "good" if good else "warn",
        "" if good else "this package is tested on 3.11 and 3.12",
    )
    for name in ("torch", "transformers", "sentencepiece", "codecarbon"):
        try:
            yield Check(name, version(name))
        except PackageNotFoundError:
            yield Check(name, "missing", "bad", "pip install teenytinyllama")


def _memory() -> Iterator[Check]:
    total_gb = available_memory_bytes() / 1e9
    health: Health = "good" if total_gb >= LOW_MEMORY_GB else "warn"
    fix = "" if health == "good" else "the quick start needs about 4 GB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cores", str(cores))
    yield Check("memory free", f"{total_gb:.1f} GB", health, fix)


def _disk(folder: Path) -> Iterator[Check]:
    here = folder
    while not here.exists():
        here = here.parent
    free_gb = shutil.disk_usage(here).free / 1e9
    writable = os.access(here, os.W_OK)
    if not writable:
        yield Check("disk", f"{here} cannot be written", "bad", "choose another --run-dir")
        return
    low = free_gb < LOW_DISK_GB
    fix = "free disk space, checkpoints take 12 bytes per parameter each" if low else ""
    yield Check("disk free", f"{free_gb:.0f} GB", "warn" if low else "good", fix)


def _device() -> tuple[str, float, int, list[Check]]:
    """The training device: its name, measured peak in TFLOP/s, memory in bytes, and checks."""
    if find_spec("torch") is None:
        return "", 0.0, 0, []
    import torch

    from teenytinyllama.hardware import multiplies_bfloat16

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device, memory = "cuda", properties.total_memory
        title = f"{torch.cuda.device_count()} x {properties.name}, {memory / 1e9:.0f} GB"
    elif torch.backends.mps.is_available():
        device, title, memory = "mps", "Apple GPU, memory shared", available_memory_bytes()
    else:
        device, title, memory = "cpu", "none: training runs on the CPU", 0
        memory = available_memory_bytes()
    peak = measure_peak_tflops(device)
    kind = "fp32" if device == "cpu" else "bf16"
    found = [
        Check("GPU", title, "good" if device != "cpu" else "warn"),
        Check("matrix multiply", f"{peak:.3g} TFLOP/s measured, {kind}"),
    ]
    if device == "cpu":
        if not multiplies_bfloat16(torch.device("cpu")):
            found.append(Check("precision", "bf16-mixed is computed in fp32: no bfloat16 here"))
        found.append(_compiler())
    if device == "cuda":
        capability = torch.cuda.get_device_capability(0)
        has_bf16 = multiplies_bfloat16(torch.device("cuda"))
        found += what_a_gpu_can(properties.name, capability, has_bf16=has_bf16)
    return device, peak, memory, found


def what_a_gpu_can(name: str, capability: tuple[int, int], *, has_bf16: bool) -> Iterator[Check]:
    """Its precision, its attention kernels, and the peak that its data sheet gives."""
    if has_bf16:
        yield Check("precision", "bf16-mixed, the default")
    else:
        fix = '--set pretrain.precision="fp16-mixed"'
        yield Check("precision", "no bfloat16 in hardware", "warn", fix)
    kernel = "cuDNN's" if capability >= (9, 0) else "FlashAttention"
    texts = "FlexAttention for isolated documents"
    if capability < (8, 0):
        kernel, texts = "memory-efficient attention", "a mask for isolated documents"
    yield Check("attention", f"{kernel}; {texts}")
    peak = peak_tflops(name)
    words = f"{peak:g} TFLOP/s" if peak else "not known: runs print no MFU"
    yield Check("peak of the data sheet", words)


def _compiler() -> Check:
    from teenytinyllama.training.cpu.kernels import find_compiler

    path = find_compiler()
    if path is None:
        fix = "apt install g++: long trainings on the CPU get a tenth faster"
        return Check("C++ compiler", "none", "warn", fix)
    return Check("C++ compiler", path)


def measure_peak_tflops(device: str) -> float:
    """Peak rate by matrix multiplication, measured now."""
    import torch

    from teenytinyllama.hardware import matmul_flops_per_s

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return matmul_flops_per_s(dtype, torch.device(device)) / 1e12


def _model_size(memory_bytes: int) -> Iterator[Check]:
    """The largest model that can be trained, and the micro-batch of the paper's 160m."""
    budget = memory_bytes * MEMORY_SHARE
    available = budget * 0.6 / TRAINING_BYTES_PER_PARAMETER
    yield Check("model that fits", f"up to {available / 1e6:,.0f} M parameters")
    model = ModelSettings()
    left = budget - num_parameters(model, PAPER_VOCAB_SIZE) * TRAINING_BYTES_PER_PARAMETER
    rows = int(left // activation_bytes(model, PAPER_VOCAB_SIZE, model.max_position_embeddings))
    words = (
        f"about {rows} rows of {model.max_position_embeddings:,} tokens" if rows >= 1 else "none"
    )
    fix = "" if rows >= 1 else "a smaller model, or pretrain.activation_checkpointing = true"
    yield Check("micro-batch, paper's 160m", words, "good" if rows >= 1 else "warn", fix)


def _recipe_checks(
    recipe: Recipe, pretrain: PretrainSettings, folder: Path, memory_bytes: int, peak_tflops: float
) -> Iterator[Check]:
    """Whether a recipe's model fits, its micro-batch, its hours and the disk it needs."""
    model, length = pretrain.model, pretrain.sequence_length
    vocab_size = recipe.tokenizer.vocab_size if recipe.tokenizer else PAPER_VOCAB_SIZE
    parameters = num_parameters(model, vocab_size)
    yield Check("this run's model", f"{parameters / 1e6:,.3g} M parameters")
    left = memory_bytes * MEMORY_SHARE - parameters * TRAINING_BYTES_PER_PARAMETER
    rows = min(
        int(left // activation_bytes(model, vocab_size, length)),
        pretrain.tokens_per_step // length,
    )
    fix = "a smaller model, or pretrain.activation_checkpointing = true"
    words = f"{rows} rows of {length:,} tokens fit" if rows >= 1 else "not one row fits"
    yield Check("micro-batch", words, *(("good", "") if rows >= 1 else ("bad", fix)))
    flops = flops_per_token(model, vocab_size, length)
    tokens = pretrain.num_steps * pretrain.tokens_per_step
    hours = tokens * flops / (peak_tflops * 1e12 * EXPECTED_SHARE) / 3600
    slow = hours > LONG_HOURS
    fix = "ttl plan shows what a rented GPU would cost" if slow else ""
    words = (
        f"about {format_duration(hours * 3600)} for {tokens / 1e6:,.3g} M tokens, "
        f"at {EXPECTED_SHARE:.0%} of the measured peak"
    )
    yield Check("pretraining", words, "warn" if slow else "good", fix)
    needed = needs_of(recipe).disk_bytes
    short = needed > free_disk_bytes(folder)
    fix = "free disk space, or raise pretrain.checkpoints.permanent_every_steps" if short else ""
    words = f"{format_bytes(needed)} for checkpoints and model"
    yield Check("disk needed", words, "bad" if short else "good", fix)


def activation_bytes(model: ModelSettings, vocab_size: int, sequence_length: int) -> int:
    """Approximate activation memory of one row in bf16, in bytes.

    Per token and layer: about 20 vectors of the hidden size and 4 of the intermediate size, two
    bytes each; and the logits three times in fp32. Attention keeps no square matrix.

    >>> activation_bytes(ModelSettings(), 32_000, 2048) // 1_000_000
    2145
    """
    layer = 2 * (20 * model.hidden_size + 4 * model.intermediate_size)
    logits = 3 * 4 * vocab_size
    return sequence_length * (model.num_hidden_layers * layer + logits)


def _stages(recipe: Recipe | None) -> Iterator[Check]:
    """Libraries that stages lack; a stage of the recipe must have all of them."""
    for stage, (extra, libraries) in NEEDED.items():
        needed = recipe is not None and getattr(recipe, stage, None) is not None
        missing = [name for name in libraries if find_spec(name) is None]
        if missing:
            fix = f"pip install 'teenytinyllama[{extra}]'"
            health: Health = "bad" if needed else "warn"
            yield Check(f"ttl {stage}", f"without {', '.join(missing)}", health, fix)
        else:
            yield Check(f"ttl {stage}", "ready")


def _optional() -> Iterator[Check]:
    """One line about optional extras that are not installed."""
    missing = [f"{extra} ({use})" for extra, name, use in OPTIONAL if find_spec(name) is None]
    if missing:
        yield Check("not installed, optional", "; ".join(missing))


def _next(checks: list[Check], device: str, peak: float, folder: Path, recipe_path: str) -> str:
    bad = [f for f in checks if f.health == "bad"]
    if bad:
        return bad[0].fix
    if recipe_path:
        return f"ttl run {recipe_path}"
    if device == "cpu" and not (folder / "quickstart" / "report").is_dir():
        return "ttl quickstart"
    if device == "cpu":
        return f"ttl plan --gpu cpu --peak-tflops {peak:.3g} --hours 10 --text-mb 50"
    return "ttl plan --gpu a100-40gb --budget-usd 50 --text-mb 1000"
