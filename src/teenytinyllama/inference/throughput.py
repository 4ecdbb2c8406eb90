"""`ttl bench`: throughput, memory and energy of generation on this machine (paper 4.1).

One row per model, precision and batch: time to the first token, prefill and generation in tokens/s,
peak memory, energy per generated token. Each row is measured in its own process, so that the peak
is its own; one run to warm up, then the median of several, with the smallest and the largest.
Token ids are random from a fixed seed, decoding is greedy, nothing stops early.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from teenytinyllama import hardware
from teenytinyllama.artifacts.manifest import write_json
from teenytinyllama.console import aligned
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import load_chat_model
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.training import ModelSettings

logger = logging.getLogger(__name__)

SIZES = {
    "160m": ModelSettings(),
    "460m": ModelSettings(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    ),
}
SIZE_VOCABULARY = 32_000
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
IDS_SEED = 1234
COLUMNS = (
    ("model", "{model}"),
    ("precision", "{precision}"),
    ("batch", "{batch}"),
    ("prompt", "{prompt_tokens}"),
    ("new", "{new_tokens}"),
    ("first token ms", "{first_token_ms}"),
    ("prefill tokens/s", "{prefill_tokens_per_s}"),
    ("generation tokens/s", "{generation_tokens_per_s}"),
    ("memory MB", "{peak_memory_mb:.0f}"),
    ("mWh/1000 tokens", "{energy_mwh_per_1000_tokens:.2f}"),
)


@dataclass(frozen=True)
class BenchmarkCase:
    """One row of the table."""

    model: str
    """A run folder, a model folder, or a size (`160m`, `460m`) with random weights."""
    precision: str = "bf16"
    batch: int = 1
    """Conversations generated together."""
    prompt_tokens: int = 128
    new_tokens: int = 64
    num_repeats: int = 5
    num_threads: int = 0
    """CPU threads; 0: torch's own choice."""


def run(*, cases: Sequence[BenchmarkCase], json_path: Path | None = None) -> str:
    """Measure every case and return the table; `json_path` gets the same as JSON.

    Raises UserError for a model, size or precision that does not exist.
    """
    for case in cases:
        _check(case)
    rows = []
    for number, case in enumerate(cases, start=1):
        name = f"{case.model}, {case.precision}, batch {case.batch}"
        logger.info(f"bench: {number} of {len(cases)}: {name}")
        rows.append(_in_own_process(case))
    if json_path is not None:
        write_json(json_path, {"machine": machine(), "rows": rows})
    return f"{machine_line(rows[0])}\n{table(rows)}"


def _check(case: BenchmarkCase) -> None:
    if case.precision not in PRECISIONS:
        what = f'got "{case.precision}"'
        raise UserError("bench-precision", "--precision", what, f"one of {', '.join(PRECISIONS)}")
    for name in ("batch", "prompt_tokens", "new_tokens", "num_repeats"):
        if getattr(case, name) < 1:
            raise UserError("bench-value", name, f"got {getattr(case, name)}", "at least 1")
    if case.new_tokens < 2:
        raise UserError("bench-value", "new_tokens", "got 1", "at least 2: the first is prefill")
    if case.model not in SIZES and not Path(case.model).exists():
        what = f"no such folder, and not a size ({', '.join(SIZES)})"
        raise UserError("model-missing", case.model, what, "ttl bench runs/quickstart")


def _in_own_process(case: BenchmarkCase) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    if done.returncode == 2:
        raise UserError("bench-case", case.model, lines[-1], "correct the model")
    if done.returncode != 0:
        raise RuntimeError(f"measuring {case.model} failed: {lines[-1]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def load_decoder(case: BenchmarkCase) -> Decoder:
    """The decoder of a case: a trained model, or random weights of a size."""
    dtype = PRECISIONS[case.precision]
    if case.model not in SIZES:
        return load_chat_model(Path(case.model), dtype=dtype).decoder
    config = llama_config(SIZES[case.model], SIZE_VOCABULARY, bos_id=1, eos_id=2, pad_id=3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Decoder(build_model(config, seed=0).to(device, dtype))


def random_prompts(batch: int, num_tokens: int, vocab_size: int) -> list[list[int]]:
    """Prompts of random ids: speed does not depend on them."""
    rng = random.Random(IDS_SEED)
    return [[rng.randrange(7, vocab_size) for _ in range(num_tokens)] for _ in range(batch)]


def measure(case: BenchmarkCase) -> dict[str, Any]:
    """One row, measured in this process."""
    if case.num_threads:
        torch.set_num_threads(case.num_threads)
    decoder = load_decoder(case)
    length = case.prompt_tokens + case.new_tokens
    if length > decoder.max_positions:
        what = f"{length} tokens, the model's context is {decoder.max_positions}"
        raise UserError("bench-value", "prompt_tokens + new_tokens", what, "fewer tokens")
    prompts = random_prompts(case.batch, case.prompt_tokens, decoder.vocab_size)
    wait = torch.cuda.synchronize if decoder.device.type == "cuda" else lambda: None
    one_run(decoder, prompts, 4, wait)  # to warm up
    meter = EnergyMeter(EnergySettings())
    meter.read()
    times = [one_run(decoder, prompts, case.new_tokens, wait) for _ in range(case.num_repeats)]
    energy_kwh = meter.read().total_kwh
    meter.stop()
    num_generated = case.batch * case.new_tokens * case.num_repeats
    prefill = [case.batch * case.prompt_tokens / first for first, _ in times]
    generation = [case.batch * (case.new_tokens - 1) / rest for _, rest in times]
    return {
        **dataclasses.asdict(case),
        "model": Path(case.model).name,
        "device": torch.cuda.get_device_name() if decoder.device.type == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
        "first_token_ms": spread([1000 * first for first, _ in times]),
        "prefill_tokens_per_s": spread(prefill),
        "generation_tokens_per_s": spread(generation),
        "peak_memory_mb": hardware.peak_memory_bytes(decoder.device) / 1e6,
        "energy_mwh_per_1000_tokens": 1e9 * energy_kwh / num_generated,
    }


def one_run(
    decoder: Decoder, prompts: Sequence[Sequence[int]], new_tokens: int, wait: Callable[[], None]
) -> tuple[float, float]:
    """Seconds to the first tokens, and for the `new_tokens - 1` after them."""
    cache = decoder.new_cache()
    wait()
    started = time.perf_counter()
    tokens = decoder.prefill(cache, prompts).argmax(-1).tolist()
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        tokens = decoder.decode_step(cache, tokens).argmax(-1).tolist()  # waits for the device
    return first - started, time.perf_counter() - first


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """The machine that the numbers were measured on."""
    return {
        "cpu": hardware.cpu_name(),
        "num_cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def machine_line(row: dict[str, Any]) -> str:
    """The machine and the method in one line."""
    found = machine()
    where = found["gpu"] or f"{found['cpu']}, {row['num_threads']} of {found['num_cpus']} CPUs"
    return (
        f"{where}; torch {found['torch']}; median of {row['num_repeats']} (smallest to largest); "
        "greedy; energy of a CPU is modelled"
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    cells = [[title for title, _ in COLUMNS]]
    for row in rows:
        shown = {name: _shown(value) for name, value in row.items()}
        cells.append([pattern.format(**shown) for _, pattern in COLUMNS])
    lines = aligned(cells)
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        low, high = round(value["min"]), round(value["max"])
        return f"{value['median']:.1f} ({low} to {high})"
    return value


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(measure(BenchmarkCase(**json.loads(sys.argv[1])))) + "\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
