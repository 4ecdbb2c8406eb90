"""Tokens to the held-out loss that the paper recipe ends at: ours, the paper, a tuned AdamW.

    python bench/time_to_loss.py --run-dir runs/real          # a run with tokenizer and pack done
    python bench/time_to_loss.py --run-dir runs/real --seeds 0,1,2      # hours on two cores

Every contestant trains the same small Llama on the same packed tokens in the same order. The paper
recipe (AdamW 6e-4, betas 0.9 and 0.999, decay 0.01, cosine) sets the loss to reach at its end;
`adamw` is tuned over five peak rates first; ours is Muon with warm-up, stay, fall. The value is the
share of the paper recipe's tokens after which a contestant is below that loss for the first time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from teenytinyllama.context import RoomContext
from teenytinyllama.energy import EnergyMeter
from teenytinyllama.recipe import (
    CheckpointSettings,
    EnergySettings,
    ModelSettings,
    OptimizerSettings,
    PretrainSettings,
    ScheduleSettings,
)
from teenytinyllama.stages import pretrain

PEAKS = (1e-3, 2e-3, 3e-3, 6e-3, 1e-2)
MODEL = ModelSettings(
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=256,
)
PAPER = (
    OptimizerSettings(peak_learning_rate=6e-4, betas=(0.9, 0.999), weight_decay=0.01),
    "cosine",
)
OURS = (OptimizerSettings(kind="muon", peak_learning_rate=3e-3, muon_learning_rate=6e-3), "wsd")


def adamw(peak: float) -> tuple[OptimizerSettings, str]:
    return OptimizerSettings(peak_learning_rate=peak), "wsd"


def curve(args, recipe, seed: int, num_steps: int) -> list[tuple[int, float]]:
    """(step, held-out bits per byte) of one training."""
    optimizer, schedule = recipe
    every = max(1, args.steps // 50)
    settings = PretrainSettings(
        model=MODEL,
        optimizer=optimizer,
        schedule=ScheduleSettings(kind=schedule, warmup_steps=max(1, num_steps // 20)),
        checkpoints=CheckpointSettings(every_minutes=1000),
        sequence_length=256,
        tokens_per_step=args.tokens_per_step,
        num_steps=num_steps,
        evaluate_every_steps=every,
        log_every_steps=every,
        seed=seed,
    )
    context = RoomContext("bench", "pt", EnergySettings(), EnergyMeter(EnergySettings()))
    with tempfile.TemporaryDirectory() as name:
        pretrain.run(
            settings=settings,
            context=context,
            out_dir=Path(name),
            tokenizer_dir=args.run_dir / "tokenizer",
            pack_dir=args.run_dir / "tokens",
        )
        lines = [json.loads(line) for line in (Path(name) / "metrics.jsonl").open()]
    return [(line["step"], line["heldout_bpb"]) for line in lines if "heldout_bpb" in line]


def reach(args, recipe, seed: int, goal: float) -> float:
    """Share of the paper recipe's steps in which a run of its own length reaches `goal`.

    A schedule that falls at the end reaches low losses only at its end, so the length itself is
    searched: the shortest of these shares whose last evaluation is below the goal.
    """
    for share in (0.15, 0.2, 0.25, 0.3, 0.36, 0.42, 0.5, 0.6, 0.75, 1.0):
        num_steps = max(10, round(share * args.steps))
        last = curve(args, recipe, seed, num_steps)[-1][1]
        print(json.dumps({"recipe": recipe[0].kind, "steps": num_steps, "bpb": last}), flush=True)
        if last <= goal:
            return share
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tokens-per-step", type=int, default=8192)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--skip-adamw", action="store_true", help="only the paper and ours")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    tuned = None
    if not args.skip_adamw:
        ends = {peak: curve(args, adamw(peak), seeds[0], args.steps)[-1][1] for peak in PEAKS}
        tuned = min(ends, key=lambda peak: ends[peak])
        print(json.dumps({"adamw_peaks": ends, "best": tuned}), flush=True)
    to_paper, to_tuned = [], []
    for seed in seeds:
        goal = curve(args, PAPER, seed, args.steps)[-1][1]
        print(json.dumps({"seed": seed, "paper_bpb": goal}), flush=True)
        ours = reach(args, OURS, seed, goal)
        to_paper.append(ours)
        if tuned is not None:
            to_tuned.append(ours / reach(args, adamw(tuned), seed, goal))
    for values, peer, goal in ((to_paper, "paper", 0.25), (to_tuned, "tuned adamw", 0.5)):
        if values:
            median = statistics.median(values)
            line = {
                "figure": f"tokens to the paper recipe's loss, {args.steps} steps",
                "value": round(median, 3),
                "spread": [round(min(values), 3), round(max(values), 3)],
                "unit": "ratio",
                "peer": peer,
                "goal": goal,
                "holds": median <= goal,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
