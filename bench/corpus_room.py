"""The whole corpus room: time and memory, and whether memory grows with the text.

    python bench/corpus_room.py [--corpus '../shared/data/corpus/*.jsonl.gz'] [--megabytes 100 400]

First the room with its default rules on a real corpus; then, on made text of two sizes (10 % of it
near copies), the room without filters: near duplicates, repeated paragraphs, personal data.
Memory is the sum of the peaks of the process and of its workers.
"""

from __future__ import annotations

import argparse
import glob
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = [f"palavra{n}" for n in range(20_000)]


def make_text(path: Path, megabytes: float) -> None:
    """Documents of random words; every tenth is an earlier one with two words changed."""
    rng = random.Random(0)
    written, recent = 0, [["nada"]]
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            if rng.random() < 0.1:
                words = list(rng.choice(recent))
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            else:
                words = rng.choices(WORDS, k=rng.randrange(50, 500))
            recent = [*recent[-99:], words]
            line = json.dumps({"text": " ".join(words)}) + "\n"
            file.write(line)
            written += len(line)


def tree_memory_gb(pid: int) -> float:
    """Resident memory of a process and its children now."""
    total = 0
    for stat in glob.glob("/proc/[0-9]*/stat"):  # noqa: PTH207 (thousands of entries)
        try:
            fields = Path(stat).read_text().rsplit(")", 1)[1].split()
            number = int(stat.split("/")[2])
        except (OSError, ValueError):
            continue
        if number == pid or int(fields[1]) == pid:
            total += int(fields[21]) * 4096
    return total / 2**30


def run_room(recipe: Path, run_dir: Path) -> tuple[float, float]:
    """(seconds, peak GiB of the whole tree) of one run of the room."""
    command = [sys.executable, "-m", "teenytinyllama.cli", "corpus", str(recipe)]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--run-dir", str(run_dir)], stderr=subprocess.DEVNULL)
    peak, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            peak = max(peak, tree_memory_gb(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    assert code == 0, f"the room ended with {code}"
    return time.monotonic() - began, peak


def report(figure: str, value: float, unit: str, goal: float) -> None:
    row = {"figure": figure, "value": round(value, 2), "spread": 0, "unit": unit, "peer": None}
    print(json.dumps({**row, "goal": goal, "holds": value <= goal}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", default="../shared/data/corpus/*.jsonl.gz")
    parser.add_argument("--megabytes", type=float, nargs=2, default=[100, 400])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "room.toml"
        if glob.glob(options.corpus):  # noqa: PTH207 (a pattern of the user)
            corpus = Path(options.corpus).absolute()
            source = f'[{{ kind = "files", path = "{corpus}" }}]'
            recipe.write_text(f'name = "room"\n[corpus]\nsources = {source}\n')
            seconds, peak = run_room(recipe, folder / "real")
            report("corpus room on the pack", seconds, "s", 180)
            report("corpus room on the pack, memory", peak, "GiB", 2)
        peaks = []
        for size in options.megabytes:
            text = folder / f"{size:.0f}.jsonl"
            make_text(text, size)
            source = f'[{{ kind = "files", path = "{text}", license = "CC0-1.0" }}]'
            filters = "filters = { families = [] }"
            recipe.write_text(f'name = "room"\n[corpus]\n{filters}\nsources = {source}\n')
            seconds, peak = run_room(recipe, folder / f"run-{size:.0f}")
            report(f"near duplicates, {size:.0f} MB, memory", peak, "GiB", 2)
            print(f"{size:.0f} MB in {seconds:.0f} s", file=sys.stderr)
            peaks.append(peak)
        report("memory at the larger size over the smaller", peaks[1] / peaks[0], "times", 1.25)


if __name__ == "__main__":
    main()
