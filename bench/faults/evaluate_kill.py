"""Kill -9 an evaluation at random moments, resume it, compare the scores bit for bit.

python bench/faults/evaluate_kill.py [--kills 20]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from teenytinyllama.stages.evaluate.packed_lm import PackedLM
from teenytinyllama.stages.evaluate.prefix_sharing import LoglikelihoodRequest


class NoTokenizer:
    bos_token_id, eos_token_id = 1, 2


def requests(count: int) -> list[LoglikelihoodRequest]:
    rng = random.Random(0)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(300) for _ in range(length))

    solved = draw(30)
    found = []
    for number in range(count):
        context = (solved if number % 2 else ()) + draw(rng.randrange(5, 60))
        found += [LoglikelihoodRequest(context, draw(rng.randrange(1, 9))) for _ in range(4)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads does not survive fork
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config).eval()
    asked = requests(250)

    def score(folder: Path | None) -> dict[str, tuple[float, bool]]:
        lm = PackedLM(
            model, NoTokenizer(), batch_tokens=256, max_length=128, cache_dir=folder, title="kill"
        )
        return dict(lm.score(asked))

    started = time.monotonic()
    undisturbed = score(None)
    duration_s = time.monotonic() - started
    rng = random.Random(1)
    equal = inside = 0
    for _ in range(options.kills):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            child = os.fork()
            if child == 0:
                score(folder)
                os._exit(0)
            time.sleep(rng.uniform(0.05, 0.95) * duration_s)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kept = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
            inside += kept > 0
            equal += score(folder) == undisturbed
    print(f"{inside} of {options.kills} kills came after the first results were cached")
    line = {
        "figure": "evaluate_killed_scores_bit_equal",
        "value": equal,
        "spread": None,
        "unit": f"of {options.kills} kill -9 at random moments",
        "peer": "none (lm-evaluation-harness starts over)",
        "goal": f"= {options.kills}",
        "holds": equal == options.kills,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
