"""F10 and step time: does ten billion tokens cost more than ten million?

    python bench/data_size.py
    python bench/data_size.py --steps 30

The token file is sparse (20 GB of holes take no disk), its borders are real (20 million
documents). Opening, finding and reading step 1,000,000: a cold and a warm time, and the memory
that the process holds more. Then a model of the quick start's size trains on both files in turn,
a step each, and the ratio of the two is taken pair by pair. What a cold disk costs is not in
here: holes are read from no disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from teenytinyllama.artifacts.tokens import TokenFile, open_tokens, write_index
from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.settings.training import ModelSettings
from teenytinyllama.stages.pretrain.pretrain_task import read_rows
from teenytinyllama.training.data_order import SequenceOrder
from teenytinyllama.training.losses import NextTokenLoss

VOCAB_SIZE = 2048
TOKENS_PER_DOCUMENT = 500
SETTINGS = PretrainSettings(
    sequence_length=256,
    tokens_per_step=1024,
    num_steps=2_000_000,
    model=ModelSettings(
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=5,
        num_attention_heads=5,
        max_position_embeddings=512,
    ),
)
ROWS_PER_STEP = SETTINGS.tokens_per_step // SETTINGS.sequence_length


def sparse_tokens(folder: Path, num_tokens: int) -> Path:
    """A tokens folder of that size; the hashes in its index are none, as nobody verifies them."""
    folder.mkdir(parents=True)
    with (folder / "train.bin").open("wb") as file:
        file.truncate(2 * num_tokens)
    with (folder / "train.documents.bin").open("wb") as file:
        for begin in range(0, num_tokens + 1, TOKENS_PER_DOCUMENT << 18):
            end = min(begin + (TOKENS_PER_DOCUMENT << 18), num_tokens + 1)
            np.arange(begin, end, TOKENS_PER_DOCUMENT, dtype="<u8").tofile(file)
    entry = {
        "tokens": {"bytes": 2 * num_tokens, "sha256": ""},
        "documents": {"bytes": (folder / "train.documents.bin").stat().st_size, "sha256": ""},
        "num_tokens": num_tokens,
        "num_documents": num_tokens // TOKENS_PER_DOCUMENT,
    }
    write_index(folder, VOCAB_SIZE, "0" * 64, {"train": entry})
    return folder


def resident_bytes() -> int:
    words = Path("/proc/self/status").read_text().split()
    return 1024 * int(words[words.index("VmRSS:") + 1])


def order_of(tokens: TokenFile) -> SequenceOrder:
    return SequenceOrder(tokens.num_sequences(SETTINGS.sequence_length), ROWS_PER_STEP, 0)


def read_step(tokens: TokenFile, step: int) -> dict[str, np.ndarray]:
    return read_rows(tokens, SETTINGS, step, order_of(tokens).rows_of_step(step))


def seek(folder: Path, step: int) -> tuple[float, list[float], int]:
    """Seconds to open the index, seconds to read a far step (cold first), bytes of memory more."""
    before = resident_bytes()
    started = time.perf_counter()
    tokens = open_tokens(folder, "train")
    opened = time.perf_counter() - started
    seconds = []
    for number in range(20):
        started = time.perf_counter()
        read_step(tokens, step + 977 * number)
        seconds.append(time.perf_counter() - started)
    return opened, seconds, max(0, resident_bytes() - before)


def step_ratios(small: TokenFile, large: TokenFile, num_steps: int) -> list[float]:
    """Time of a step on the large file over that on the small one, pair by pair."""
    config = llama_config(SETTINGS.model, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
    objective = NextTokenLoss(build_model(config, seed=0))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4, fused=True)

    def one(tokens: TokenFile, step: int) -> float:
        started = time.perf_counter()
        arrays = read_step(tokens, step)
        tensors = {name: torch.from_numpy(rows) for name, rows in arrays.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            objective(**tensors).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    chance = np.random.default_rng(1)
    ratios = []
    for _ in range(3):
        one(small, 0), one(large, 0)
    for number in range(num_steps):
        step = int(chance.integers(0, 1_000_000))
        taken = {}
        for tokens in (small, large) if number % 2 else (large, small):
            taken[tokens.path] = one(tokens, step)
        ratios.append(taken[large.path] / taken[small.path])
    return ratios


def figure(name: str, value: float, unit: str, goal: float, holds: bool, spread: object) -> None:
    line = {"figure": name, "value": value, "spread": spread, "unit": unit, "peer": ""}
    print(json.dumps({**line, "goal": goal, "holds": bool(holds)}), flush=True)


def median_spread(values: list[float], seed: int = 0) -> list[float]:
    """The middle 95 % of medians of resamples."""
    chance = np.random.default_rng(seed)
    medians = np.median(chance.choice(values, (2000, len(values))), axis=1)
    return [round(float(x), 4) for x in np.percentile(medians, [2.5, 97.5])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--large", type=int, default=10_000_000_000)
    parser.add_argument("--small", type=int, default=10_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        small_dir = sparse_tokens(Path(name) / "small", args.small)
        large_dir = sparse_tokens(Path(name) / "large", args.large)
        seek(small_dir, 1000)  # so that no code is met for the first time below
        opened, seconds, memory = seek(large_dir, 1_000_000)
        milliseconds = [round(1000 * s, 3) for s in (statistics.median(seconds), max(seconds))]
        figure(
            "F10 rows of step 1,000,000, worst of 20",
            milliseconds[1],
            "ms",
            50,
            milliseconds[1] <= 50,
            milliseconds,
        )
        figure("F10 memory for it", round(memory / 1e6, 1), "MB", 50, memory <= 50e6, None)
        figure("F10 opening the index", round(opened, 3), "s", 2, opened <= 2, None)
        small, large = open_tokens(small_dir, "train"), open_tokens(large_dir, "train")
        ratios = step_ratios(small, large, args.steps)
    spread = median_spread(ratios)
    ratio = statistics.median(ratios)
    name = f"time of a step, {args.large:,} tokens against {args.small:,}"
    figure(name, round(ratio, 4), "ratio", 1.02, ratio <= 1.02, spread)


if __name__ == "__main__":
    main()
