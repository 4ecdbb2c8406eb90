"""The best 160m recipe on one's own text, trained in slices of under nine minutes on a GPU.

    python bench/gpu_train.py --text 'corpus/*.jsonl.gz' --run-dir runs/gpu-160m   # again and again
    python bench/gpu_train.py --toy                                    # tiny, on a CPU

A slice is `ttl run` that is sent SIGTERM when its minutes are over; the next one goes on at that
very step. Figures so far go to standard output and to bench/results/gpu_train.jsonl, the newest
slice only; the run's report and samples are in its folder.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "gpu_train.jsonl"
MINUTES = 8.5
TO_BE_RESUMED = 75  # exit code of `ttl run` after a signal
LOG = "pretrain/metrics.jsonl"
PASSES = 16
MUON_RATE = 2e-3  # best-160m's
TOY = """
name = "toy"
language = "pt"
[corpus]
sources = [{ kind = "storybook", num_documents = 300, license = "Apache-2.0" }]
[tokenizer]
vocab_size = 512
[pack]
[pretrain]
sequence_length = 64
tokens_per_step = 256
num_steps = 600
model = { hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 2 }
[report]
"""
SECONDS_TO_SAVE = 30.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default="", help="glob of JSON Lines files")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/gpu-160m"))
    parser.add_argument("--steps", type=int, default=5_678, help="16 passes over 166 MB")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--toy", action="store_true", help="a tiny model on a CPU")
    return parser.parse_args()


def changes(args: argparse.Namespace) -> list[str]:
    """The settings that differ from the recipe's."""
    # A weight is forgotten within one of the passes, as docs/little-text.md advises.
    decay = round(PASSES / (MUON_RATE * args.steps), 3)
    source = {"kind": "files", "path": args.text, "license": "unknown"}
    pairs = ",".join(f"{key}={json.dumps(value)}" for key, value in source.items())
    return [
        f"corpus.sources=[{{{pairs}}}]",
        "corpus.heldout_fraction=0.01",
        "evaluate.tasks=[{name='cloze',kind='cloze'}]",
        f"pretrain.num_steps={args.steps}",
        f"pretrain.evaluate_every_steps={args.steps // PASSES}",
        "pretrain.checkpoints.permanent_every_steps=0",
        "pretrain.checkpoints.keep_weights=best",
        f"pretrain.optimizer.weight_decay={decay}",
        "pretrain.averaging.ema_decay=0.998",
        "pretrain.shuffle_documents=true",
    ]


def train(recipe: str, settings: list[str], run_dir: Path, is_over: Callable[[], bool]) -> bool:
    """Train until `is_over`; True where the run is finished. Exits where it failed."""
    command = [sys.executable, "-m", "teenytinyllama.cli", "run", recipe, "--run-dir", str(run_dir)]
    process = subprocess.Popen([*command, *(word for s in settings for word in ("--set", s))])
    while process.poll() is None and not is_over():
        time.sleep(0.1)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    code = process.wait()
    if code not in (0, TO_BE_RESUMED):
        sys.exit(code)
    return code == 0


def figures(run_dir: Path) -> list[dict[str, object]]:
    """What the run's log holds so far."""
    log = run_dir / LOG
    rows = (
        [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    )
    found = []
    for key, unit in (("step", "steps"), ("loss", "nats"), ("tokens_per_s", "tokens/s"),
                      ("mfu", "share"), ("heldout_bpb", "bits per byte")):  # fmt: skip
        values = [row[key] for row in rows if row.get(key) is not None]
        found.append({"figure": f"gpu_train_{key}", "value": values[-1] if values else None,
                      "unit": unit, "goal": None, "holds": None})  # fmt: skip
    return found


def main() -> None:
    import torch

    args = parse()
    if args.toy:
        with tempfile.TemporaryDirectory() as folder:
            recipe, run_dir = Path(folder) / "toy.toml", Path(folder) / "run"
            recipe.write_text(TOY, encoding="utf-8")
            # The first slice ends with the first line of the log, on any machine.
            stopped = not train(str(recipe), [], run_dir, (run_dir / LOG).exists)
            finished = train(str(recipe), [], run_dir, lambda: False)
            for row in figures(run_dir):
                print(json.dumps(row))
        if not (stopped and finished):
            sys.exit("the toy was not stopped once and then finished")
        return
    if not torch.cuda.is_available():
        print("no GPU here: --toy trains a tiny model on the CPU, stopped once")
        return
    if not args.text:
        sys.exit("--text: name the text to train on, a glob of JSON Lines files")
    ends = time.monotonic() + 60 * args.minutes - SECONDS_TO_SAVE
    is_done = train("best-160m", changes(args), args.run_dir, lambda: time.monotonic() > ends)
    rows = [*figures(args.run_dir), {"figure": "gpu_train_finished", "value": is_done}]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(RESULTS.read_text("utf-8"), end="")


if __name__ == "__main__":
    main()
