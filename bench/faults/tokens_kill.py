"""F13: tokenizer and pack stages killed at random moments and run again give the same bytes.

    python bench/faults/tokens_kill.py [--kills 100] [--kills-per-run 10]

The corpus is built once. Each round kills `ttl run` (SIGKILL, only the main process) several times
during these two stages, lets the last one finish, and compares every file with an undisturbed run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("tokenizer", "pack")
SECONDS_FOR_WORKERS_TO_END = 10
SYLLABLES = [a + b for a in "bcdfglmnprstv" for b in "aeiou"]


def make_corpus(path: Path, megabytes: float) -> None:
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        size = 0
        while size < megabytes * 1e6:
            words = ("".join(rng.choices(SYLLABLES, k=rng.randrange(1, 5))) for _ in range(300))
            text = " ".join(words) + ".\n"
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text)


def start(recipe: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "teenytinyllama.cli", "run", str(recipe)]
    command += ["--run-dir", str(run_dir)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def files_of(run_dir: Path) -> dict[str, str]:
    """Hash of every file of the two stages, except their manifests."""
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in STAGES
        for path in sorted((run_dir / stage).rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", ".spending.jsonl")
    }


def children_of(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-run", type=int, default=10)
    parser.add_argument("--megabytes", type=float, default=12)
    options = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpus(folder / "text.jsonl", options.megabytes)
        recipe = folder / "kill.toml"
        recipe.write_text(
            'name = "kill"\n[corpus]\nfilters = { families = [] }\nsources = [{ kind = "files", '
            f'path = "{folder}/text.jsonl", license = "CC0-1.0" }}]\n'
            "[tokenizer]\nvocab_size = 2000\n[pack]\n"
        )
        reference_dir = folder / "reference"
        assert start(recipe, reference_dir).wait() == 0
        for stage in STAGES:
            shutil.rmtree(reference_dir / stage)
        only_corpus = folder / "only-corpus"
        shutil.copytree(reference_dir, only_corpus, symlinks=True)
        began = time.monotonic()
        assert start(recipe, reference_dir).wait() == 0
        took = time.monotonic() - began
        reference = files_of(reference_dir)
        kills = rounds = equal = orphans = 0
        while kills < options.kills:
            rounds += 1
            run_dir = folder / "killed"
            shutil.rmtree(run_dir, ignore_errors=True)
            shutil.copytree(only_corpus, run_dir, symlinks=True)
            for _ in range(options.kills_per_run):
                process = start(recipe, run_dir)
                time.sleep(rng.uniform(0.2, 1.0) * took)
                workers = children_of(process.pid)
                if process.poll() is None:
                    kills += 1
                    process.kill()
                    process.wait()
                    limit = time.monotonic() + SECONDS_FOR_WORKERS_TO_END
                    while time.monotonic() < limit and any(map(is_alive, workers)):
                        time.sleep(0.1)
                    orphans += sum(map(is_alive, workers))
            assert start(recipe, run_dir).wait() == 0
            equal += files_of(run_dir) == reference
            print(f"{kills} kills, {equal} of {rounds} runs equal", file=sys.stderr, flush=True)
    row = {"figure": "F13 tokenizer and pack: runs equal after kills", "value": equal / rounds}
    row |= {"spread": 0, "unit": f"of {rounds} runs, {kills} kills"}
    row |= {"peer": "datatrove: marker without hash", "goal": 1.0, "holds": equal == rounds}
    print(json.dumps(row))
    row = {"figure": "F13 tokenizer and pack: workers left behind", "value": orphans, "spread": 0}
    row |= {"unit": f"processes, {kills} kills", "peer": None, "goal": 0, "holds": orphans == 0}
    print(json.dumps(row))


def is_alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


if __name__ == "__main__":
    main()
