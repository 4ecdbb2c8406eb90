"""What this machine can do: software, memory, disk, speed, what is missing for which stage.

With a recipe: whether that run fits here, in how many hours, and on how much disk. Importing torch
and one second of measuring is all that it costs.
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

from teenytinyllama.modeling.model_size import flops_per_token, num_parameters
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.recipe import Recipe
from teenytinyllama.settings.training import ModelSettings

# Libraries by stage, and the extra that brings them; the base install brings the others.
NEEDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "corpus": ("corpus", ("datasets", "pyarrow", "py3langid", "xxhash")),
    "evaluate": ("evaluate", ("lm_eval", "sklearn")),
    "quantize": ("quantize", ("gguf",)),
    "serve": ("serve", ("uvicorn",)),
}
# What more can be had: the extra, a library that shows it is there, and what it is for.
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
# fp32 weights, gradients, two moments; activations of a small micro-batch come on top.
TRAINING_BYTES_PER_PARAMETER = 16
MEMORY_SHARE = 0.85
PAPER_VOCAB_SIZE = 32_000
# Share of the measured peak that a training of ours reaches (EXPERIMENTS.md: 0.28 to 0.48).
EXPECTED_MFU = 0.35
# A checkpoint: weights and two moments in fp32. Two rolling ones are kept, and `final/`.
CHECKPOINT_BYTES_PER_PARAMETER, ROLLING_CHECKPOINTS = 12, 2

Health = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `fix` is what to type where something is missing."""

    name: str
    value: str
    health: Health = "good"
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the measured peak in TFLOP/s (bf16 on a GPU, fp32 on a CPU), what to do."""

    findings: tuple[Finding, ...]
    device: str
    peak_tflops: float
    next_command: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def examine(folder: Path, recipe: Recipe | None = None, recipe_path: str = "") -> Diagnosis:
    """Look at the machine, at the disk behind `folder`, and at what a recipe would need of both."""
    findings = [*_software(), *_memory(), *_disk(folder)]
    device, peak, memory, found = _device()
    findings += found
    if recipe is None or recipe.pretrain is None:
        findings += _fitting(memory) if device else ()
    else:
        findings += _of_recipe(recipe, recipe.pretrain, folder, memory, peak)
    findings += [*_stages(recipe), *_optional()]
    next_command = _next(findings, device, peak, folder, recipe_path)
    return Diagnosis(tuple(findings), device, peak, next_command)


def _software() -> Iterator[Finding]:
    good = sys.version_info[:2] in ((3, 11), (3, 12))
    yield Finding(
        "python",
        platform.python_version(),
        "good" if good else "warn",
        "" if good else "this package is tested on 3.11 and 3.12",
    )
    for name in ("torch", "transformers", "sentencepiece", "codecarbon"):
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "missing", "bad", "pip install teenytinyllama")


def _memory() -> Iterator[Finding]:
    total_gb = available_memory_bytes() / 1e9
    health: Health = "good" if total_gb >= LOW_MEMORY_GB else "warn"
    fix = "" if health == "good" else "the quick start needs about 4 GB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", str(cores))
    yield Finding("memory free", f"{total_gb:.1f} GB", health, fix)


def available_memory_bytes() -> int:
    """Memory that a new process can take: what the system says, less where a container caps it."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return max(available, 0)


def _disk(folder: Path) -> Iterator[Finding]:
    here = folder
    while not here.exists():
        here = here.parent
    free_gb = shutil.disk_usage(here).free / 1e9
    writable = os.access(here, os.W_OK)
    if not writable:
        yield Finding("disk", f"{here} cannot be written", "bad", "choose another --run-dir")
        return
    low = free_gb < LOW_DISK_GB
    fix = "free disk space, checkpoints take 12 bytes per parameter each" if low else ""
    yield Finding("disk free", f"{free_gb:.0f} GB", "warn" if low else "good", fix)


def _device() -> tuple[str, float, int, list[Finding]]:
    """What trains here: its name, measured peak in TFLOP/s, memory in bytes, and findings."""
    if find_spec("torch") is None:
        return "", 0.0, 0, []
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device, memory = "cuda", properties.total_memory
        title = f"{torch.cuda.device_count()} x {properties.name}, {memory / 1e9:.0f} GB"
    elif torch.backends.mps.is_available():
        device, title, memory = "mps", "Apple GPU, memory shared", available_memory_bytes()
    else:
        device, title, memory = "cpu", "none: training runs on the processor", 0
        memory = available_memory_bytes()
    peak = measure_peak_tflops(device)
    kind = "fp32" if device == "cpu" else "bf16"
    found = [
        Finding("GPU", title, "good" if device != "cpu" else "warn"),
        Finding("matrix multiply", f"{peak:.3g} TFLOP/s measured, {kind}"),
    ]
    if device == "cpu":
        found.append(_compiler())
    return device, peak, memory, found


def _compiler() -> Finding:
    from teenytinyllama.training.cpu.kernels import find_compiler

    path = find_compiler()
    if path is None:
        fix = "apt install g++: long trainings on the processor gain a tenth"
        return Finding("C++ compiler", "none", "warn", fix)
    return Finding("C++ compiler", path)


def measure_peak_tflops(device: str) -> float:
    """The rate that a training's FLOPs utilisation will be a share of: same sizes, same code."""
    import torch

    from teenytinyllama.hardware import matmul_flops_per_s

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return matmul_flops_per_s(dtype, torch.device(device)) / 1e12


def _fitting(memory_bytes: int) -> Iterator[Finding]:
    """Sizes that train here, and the rows of the paper's 160m that one forward pass can hold."""
    budget = memory_bytes * MEMORY_SHARE
    stage = budget * 0.6 / TRAINING_BYTES_PER_PARAMETER
    yield Finding("model that fits", f"up to {stage / 1e6:,.0f} M parameters")
    model = ModelSettings()
    left = budget - num_parameters(model, PAPER_VOCAB_SIZE) * TRAINING_BYTES_PER_PARAMETER
    rows = int(left // activation_bytes(model, PAPER_VOCAB_SIZE, model.max_position_embeddings))
    words = (
        f"about {rows} rows of {model.max_position_embeddings:,} tokens" if rows >= 1 else "none"
    )
    fix = "" if rows >= 1 else "a smaller model, or pretrain.activation_checkpointing = true"
    yield Finding("micro-batch, paper's 160m", words, "good" if rows >= 1 else "warn", fix)


def _of_recipe(
    recipe: Recipe, pretrain: PretrainSettings, folder: Path, memory_bytes: int, peak_tflops: float
) -> Iterator[Finding]:
    """Whether a recipe's model fits, how many rows at once, how long it takes, what it writes."""
    model, length = pretrain.model, pretrain.sequence_length
    vocab_size = recipe.tokenizer.vocab_size if recipe.tokenizer else PAPER_VOCAB_SIZE
    parameters = num_parameters(model, vocab_size)
    yield Finding("this run's model", f"{parameters / 1e6:,.3g} M parameters")
    left = memory_bytes * MEMORY_SHARE - parameters * TRAINING_BYTES_PER_PARAMETER
    rows = min(
        int(left // activation_bytes(model, vocab_size, length)),
        pretrain.tokens_per_step // length,
    )
    fix = "a smaller model, or pretrain.activation_checkpointing = true"
    words = f"{rows} rows of {length:,} tokens fit" if rows >= 1 else "not one row fits"
    yield Finding("micro-batch", words, *(("good", "") if rows >= 1 else ("bad", fix)))
    flops = flops_per_token(model, vocab_size, length)
    tokens = pretrain.num_steps * pretrain.tokens_per_step
    hours = tokens * flops / (peak_tflops * 1e12 * EXPECTED_MFU) / 3600
    slow = hours > LONG_HOURS
    fix = "ttl plan shows what a rented GPU would cost" if slow else ""
    words = f"about {hours:,.2g} h for {tokens / 1e6:,.3g} M tokens, at {EXPECTED_MFU:.0%} of peak"
    yield Finding("pretraining", words, "warn" if slow else "good", fix)
    every = pretrain.checkpoints.permanent_every_steps
    kept = ROLLING_CHECKPOINTS + (pretrain.num_steps // every if every else 0)
    needed = parameters * (CHECKPOINT_BYTES_PER_PARAMETER * kept + 4)
    here = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    short = needed > shutil.disk_usage(here).free
    fix = "free disk space, or raise pretrain.checkpoints.permanent_every_steps" if short else ""
    words = f"{needed / 1e9:,.2g} GB for checkpoints and model"
    yield Finding("disk needed", words, "bad" if short else "good", fix)


def activation_bytes(model: ModelSettings, vocab_size: int, sequence_length: int) -> int:
    """Memory that one row keeps between forward and backward pass, roughly, in bf16.

    Per token and layer: some 20 vectors of the hidden size and 4 of the intermediate one, two
    bytes each; and the logits three times over in fp32. Attention keeps no square matrix.

    >>> activation_bytes(ModelSettings(), 32_000, 2048) // 1_000_000
    2145
    """
    layer = 2 * (20 * model.hidden_size + 4 * model.intermediate_size)
    logits = 3 * 4 * vocab_size
    return sequence_length * (model.num_hidden_layers * layer + logits)


def _stages(recipe: Recipe | None) -> Iterator[Finding]:
    """What stages lack; with a recipe a stage that it walks must have everything."""
    for stage, (extra, libraries) in NEEDED.items():
        walked = recipe is not None and getattr(recipe, stage, None) is not None
        missing = [name for name in libraries if find_spec(name) is None]
        if missing:
            fix = f"pip install 'teenytinyllama[{extra}]'"
            health: Health = "bad" if walked else "warn"
            yield Finding(f"ttl {stage}", f"without {', '.join(missing)}", health, fix)
        else:
            yield Finding(f"ttl {stage}", "ready")


def _optional() -> Iterator[Finding]:
    """One line on what is not installed and not needed."""
    missing = [f"{extra} ({use})" for extra, name, use in OPTIONAL if find_spec(name) is None]
    if missing:
        yield Finding("not installed, optional", "; ".join(missing))


def _next(findings: list[Finding], device: str, peak: float, folder: Path, recipe_path: str) -> str:
    bad = [f for f in findings if f.health == "bad"]
    if bad:
        return bad[0].fix
    if recipe_path:
        return f"ttl run {recipe_path}"
    if device == "cpu" and not (folder / "quickstart" / "report").is_dir():
        return "ttl run recipes/quickstart.toml"
    if device == "cpu":
        return f"ttl plan --gpu cpu --peak-tflops {peak:.3g} --hours 10 --text-mb 50"
    return "ttl plan --gpu a100-40gb --budget-usd 50 --text-mb 1000"
