"""Kill -9 one of two ranks at random moments: `torchrun --max-restarts` goes on by itself.

Two processes over gloo train a small model through the command line. Losses, rates and norms of
every logged step, and the final weights, are compared with a training that nothing disturbed.

    python bench/faults/rank_kills.py [--kills 20]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name = "rank-kills"
language = "pt"
[corpus]
sources = [{ kind = "storybook", num_documents = 300, license = "Apache-2.0" }]
[tokenizer]
vocab_size = 512
[pack]
[pretrain]
sequence_length = 64
tokens_per_step = 512
num_steps = 300
log_every_steps = 5
precision = "fp32"
model = { hidden_size = 64, intermediate_size = 128, num_hidden_layers = 2, num_attention_heads = 2, max_position_embeddings = 128 }
checkpoints = { every_steps = 10 }
"""  # noqa: E501 (a table of TOML is one line)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SECONDS_WITHOUT_PROGRESS = 300.0


def command(stage: str, recipe: Path, folder: Path, *, ranks: int = 0) -> list[str]:
    """`ttl STAGE`, under torchrun where there are ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    launcher += ["--max-restarts=100"]
    work = ["-m", "teenytinyllama.cli", stage, str(recipe), "--run-dir", str(folder)]
    return [sys.executable, *(launcher if ranks else []), *work]


def ranks_of(launcher: int) -> dict[int, int]:
    """Process ids of the launcher's ranks, by rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    found = {}
    for child in children:
        try:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        ranks = [one[5:] for one in variables if one.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0])] = int(child)
    return found


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint; -1 without one."""
    return max((int(p.name[5:]) for p in (folder / "pretrain").glob("step-*")), default=-1)


def train(recipe: Path, folder: Path, rng: random.Random, num_kills: int) -> int:
    """Train to the end and kill meanwhile; returns how many kills there were."""
    process = subprocess.Popen(
        command("pretrain", recipe, folder, ranks=2),
        env=ENVIRONMENT,
        stderr=(folder / "stderr").open("wb"),
    )
    killed = 0
    while process.poll() is None and killed < num_kills:
        # Half of the kills at any moment, start-up included; half while steps are taken.
        step, started = newest_step(folder), time.monotonic()
        if rng.random() < 0.5:
            while process.poll() is None and newest_step(folder) <= step:
                time.sleep(0.05)
                if time.monotonic() - started > SECONDS_WITHOUT_PROGRESS:
                    process.terminate()
                    raise RuntimeError(f"no progress after kill {killed}")
            time.sleep(rng.uniform(0, 1))
        else:
            time.sleep(rng.uniform(0, 15))
        ranks = ranks_of(process.pid) if process.poll() is None else {}
        if len(ranks) == 2:
            os.kill(ranks[rng.randrange(2)], signal.SIGKILL)
            killed += 1
            print(f"kill {killed} after step {newest_step(folder)}", file=sys.stderr)
            time.sleep(1)  # until the launcher has seen it
    if process.wait() != 0:
        raise RuntimeError((folder / "stderr").read_text()[-4000:])
    return killed


def result_of(folder: Path) -> tuple[str, list[tuple[float, ...]]]:
    """Hash of the final weights, and the log of losses."""
    weights = (folder / "pretrain" / "final" / "model.safetensors").read_bytes()
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    names = ("step", "loss", "lr", "grad_norm")
    rows = [tuple(json.loads(line)[name] for name in names) for line in lines]
    return hashlib.sha256(weights).hexdigest(), rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    rng = random.Random(0)
    killed = equal = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        recipe = root / "recipe.toml"
        recipe.write_text(RECIPE)
        for stage in ("corpus", "tokenizer", "pack"):
            subprocess.run(command(stage, recipe, root / "alone"), env=ENVIRONMENT, check=True)
        shutil.copytree(root / "alone", root / "start")
        train(recipe, root / "alone", rng, 0)
        expected = result_of(root / "alone")
        while killed < options.kills:
            folder = root / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(root / "start", folder)
            found = train(recipe, folder, rng, options.kills - killed)
            killed += found
            equal += found if result_of(folder) == expected else 0
    line = {
        "figure": "F24 killed_ranks_resumed_by_torchrun_with_the_same_losses",
        "value": equal,
        "spread": None,
        "unit": f"of {killed} kill -9 of one of two ranks",
        "peer": None,
        "goal": f"= {options.kills}",
        "holds": equal == killed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
