"""The whole corpus stage: time and memory, and whether memory grows with the text.

    python bench/corpus_stage.py [--data ../shared/data/corpus] [--megabytes 100 1000]
                                [--parts real growth tokens]

- `real`: the stage with its default rules on the folder's `.jsonl.gz`.
- `growth`: the stage without filters (near duplicates, repeated paragraphs, personal data) on text
  of two sizes, made from that corpus in passes; each pass swaps vowels and nasals differently, so
  that none repeats another. Every tenth document is followed by a copy with one word changed.
- `tokens`: tokenizer and pack on half of the larger size.

Memory is the highest sum, seen five times a second, of the process and of its workers.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

VOWELS, NASALS = "aeiou", "lmnr"


def documents(data: Path) -> Iterator[str]:
    """Endless texts; every pass over the folder swaps letters differently."""
    paths = sorted(data.glob("*.jsonl.gz"))
    for number in itertools.count():
        turned = {"v": number % len(VOWELS), "n": number // len(VOWELS) % len(NASALS)}
        into = VOWELS[turned["v"] :] + VOWELS[: turned["v"]]
        into += NASALS[turned["n"] :] + NASALS[: turned["n"]]
        letters = str.maketrans(VOWELS + NASALS, into)
        for path in paths:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)["text"].translate(letters)


def make_text(data: Path, path: Path, megabytes: float) -> None:
    """Write this many megabytes of documents, near copies among them."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents(data)):
            texts = [text]
            if number % 10 == 0:
                words = text.split(" ")
                words[len(words) // 2] = "palavra"
                texts.append(" ".join(words))
            for one in texts:
                line = json.dumps({"text": one}, ensure_ascii=False) + "\n"
                file.write(line)
                written += len(one.encode("utf-8"))
            if written >= megabytes * 1e6:
                return


def tree_memory_gb(pid: int) -> float:
    """Resident memory of a process and its children."""
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


def run_stage(recipe: Path, run_dir: Path, stage: str = "corpus") -> tuple[float, float]:
    """(seconds, peak GiB of the whole tree) of one run of a stage."""
    command = [sys.executable, "-m", "teenytinyllama.cli", stage, str(recipe)]
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
    assert code == 0, f"the stage ended with {code}"
    return time.monotonic() - began, peak


def report(figure: str, value: float, unit: str, goal: float) -> None:
    row = {"figure": figure, "value": round(value, 2), "spread": 0, "unit": unit, "peer": None}
    print(json.dumps({**row, "goal": goal, "holds": value <= goal}), flush=True)


def make_corpus(data: Path, folder: Path, size: float) -> tuple[Path, Path, float]:
    """(recipe, run folder, peak GiB) of the corpus stage on so many megabytes."""
    recipe, text, run_dir = folder / "stage.toml", folder / "text.jsonl", folder / f"run-{size:.0f}"
    make_text(data, text, size)
    recipe.write_text(
        'name = "stage"\n[corpus]\nfilters = { families = [] }\n'
        f'sources = [{{ kind = "files", path = "{text}", license = "CC0-1.0" }}]\n'
        "[tokenizer]\n[pack]\n"
    )
    seconds, peak = run_stage(recipe, run_dir)
    text.unlink()
    counts = json.loads((run_dir / "corpus/manifest.json").read_text())["counts"]
    print(
        f"{size:.0f} MB in {seconds:.0f} s: {counts['documents_duplicate']} copies", file=sys.stderr
    )
    return recipe, run_dir, peak


def growth(data: Path, folder: Path, megabytes: list[float]) -> None:
    peaks = []
    for size in megabytes:
        _, _, peak = make_corpus(data, folder, size)
        report(f"near duplicates, {size:.0f} MB, memory", peak, "GiB", 2)
        peaks.append(peak)
    report("memory at the larger size over the smaller", peaks[1] / peaks[0], "times", 1.25)


def tokens(data: Path, folder: Path, size: float) -> None:
    recipe, run_dir, _ = make_corpus(data, folder, size)
    for stage in ("tokenizer", "pack"):
        seconds, peak = run_stage(recipe, run_dir, stage)
        report(f"{stage} on {size:.0f} MB, memory", peak, "GiB", 1)
        print(f"{stage} in {seconds:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/corpus"))
    parser.add_argument("--megabytes", type=float, nargs=2, default=[100, 1000])
    parser.add_argument("--parts", nargs="+", default=["real", "growth", "tokens"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "real" in options.parts:
            recipe = folder / "real.toml"
            source = f'[{{ kind = "files", path = "{options.data.absolute()}/*.jsonl.gz" }}]'
            recipe.write_text(f'name = "real"\n[corpus]\nsources = {source}\n')
            seconds, peak = run_stage(recipe, folder / "real")
            report("corpus stage on the pack", seconds, "s", 180)
            report("corpus stage on the pack, memory", peak, "GiB", 2)
        if "growth" in options.parts:
            growth(options.data, folder, options.megabytes)
        if "tokens" in options.parts:
            tokens(options.data, folder, options.megabytes[1] / 2)


if __name__ == "__main__":
    main()
