"""F11: time of a save, with hashes and syncs, against accelerate's, which has neither.

    python bench/save_cost.py
    python bench/save_cost.py --pairs 5

A Llama of 8 M parameters with both moments of AdamW, 96 MB. Ours and `Accelerator.save_state`
take turns, in alternating order. Before each, everything unsynced is flushed outside the
measurement, so that neither sync pays for the other's bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from teenytinyllama.modeling.initialization import build_model, llama_config
from teenytinyllama.settings.training import ModelSettings, OptimizerSettings
from teenytinyllama.training import checkpoints
from teenytinyllama.training.optimizers import build_optimizers, optimizer_tensors

SIZES = ModelSettings(
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=7,
    num_attention_heads=4,
    max_position_embeddings=512,
)
VOCAB_SIZE = 4096


def timed(work: Callable[[], object]) -> float:
    checkpoints.finish_removals()
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=21)
    args = parser.parse_args()
    config = llama_config(SIZES, VOCAB_SIZE, bos_id=1, eos_id=2, pad_id=3)
    model = build_model(config, seed=0)
    (optimizer,) = build_optimizers(
        model, OptimizerSettings(kind="adamw"), compute_dtype=torch.float32
    )
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    tensors = optimizer_tensors(model, [optimizer.optimizer])
    num_bytes = sum(t.nbytes for t in (*model.state_dict().values(), *tensors.values()))
    ratios, seconds = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for pair in range(-1, args.pairs):  # the first pair warms up
            step, theirs_dir = pair + 2, str(folder / "theirs" / str(pair))

            def ours(step: int = step) -> None:
                checkpoints.save_checkpoint(
                    folder / "ours",
                    step,
                    model=model.state_dict(),
                    optimizer=tensors,
                    state={"progress": {"step": step}},
                    write_model_files=config.save_pretrained,
                    keep=lambda step: False,
                )

            def theirs(place: str = theirs_dir) -> None:
                accelerator.save_state(place)

            if pair % 2:
                ours_s, theirs_s = timed(ours), timed(theirs)
            else:
                theirs_s, ours_s = timed(theirs), timed(ours)
            if pair >= 0:
                ratios.append(ours_s / theirs_s)
                seconds.append(ours_s)
    _figure("F11 time of a save", ratios, "ratio", "accelerate", 1.5)
    _figure(f"F11 seconds for {num_bytes / 1e6:.0f} MB", seconds, "s", "", None)


def _figure(name: str, values: list[float], unit: str, peer: str, goal: float | None) -> None:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    median = statistics.median(values)
    line = {
        "figure": name,
        "value": round(median, 3),
        "spread": [round(low, 3), round(high, 3)],
        "unit": unit,
        "peer": peer,
        "goal": goal,
        "holds": None if goal is None else bool(median <= goal),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
