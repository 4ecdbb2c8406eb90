"""F13, corpus stage: killed at random moments, run again by the same command, same bytes.

    python bench/faults/corpus_kill.py [--kills 100] [--kills-per-run 10]

Each round kills one run several times (SIGKILL to the process alone: its workers must end by
themselves), lets the last finish, and compares every file with an undisturbed run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [f"palavra{n}" for n in range(5000)]


def make_corpus(folder: Path, megabytes: float) -> None:
    """Two files of text with copies, near copies, bad lines and repeated paragraphs."""
    rng = random.Random(0)
    for name in ("a", "b"):
        size = 0
        texts: list[str] = []
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            while size < megabytes * 5e5:
                text = " ".join(rng.choices(WORDS, k=rng.randrange(30, 400)))
                text += "\nUm rodapé que se repete em todas as páginas deste lugar."
                if texts and rng.random() < 0.1:
                    text = rng.choice(texts) + (" mais" if rng.random() < 0.5 else "")
                texts.append(text)
                line = json.dumps({"text": text}) if rng.random() > 0.002 else '{"text": nul'
                file.write(line + "\n")
                size += len(text)


def start(recipe: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "teenytinyllama.cli", "corpus", str(recipe)]
    command += ["--run-dir", str(run_dir)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def files_of(run_dir: Path) -> dict[str, str]:
    """Hash of every file that the stage wrote, except its manifest."""
    corpus = run_dir / "corpus"
    return {
        str(path.relative_to(corpus)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(corpus.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", ".spending.jsonl")
    }


def children_of(pid: int) -> list[int]:
    """Processes that name this one as their parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(stat[1]) == pid:
                found.append(int(entry.name))
    return found


def still_there(workers: list[int], patience_s: float = 30) -> int:
    """Workers that did not end by themselves; one that is still importing needs some seconds."""
    until = time.monotonic() + patience_s
    left = workers
    while left and time.monotonic() < until:
        time.sleep(0.2)
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
    return len(left)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-run", type=int, default=10)
    parser.add_argument("--megabytes", type=float, default=10)
    options = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        make_corpus(folder / "text", options.megabytes)
        recipe = folder / "kill.toml"
        recipe.write_text(
            'name = "kill"\n[corpus]\nfilters = { families = [] }\nsources = [{ kind = "files", '
            f'path = "{folder}/text", license = "CC0-1.0" }}]\n'
        )
        began = time.monotonic()
        assert start(recipe, folder / "calm").wait() == 0
        took = time.monotonic() - began
        calm = files_of(folder / "calm")
        kills = rounds = equal = orphans = 0
        while kills < options.kills:
            rounds += 1
            run_dir = folder / "killed"
            shutil.rmtree(run_dir, ignore_errors=True)
            for _ in range(options.kills_per_run):
                process = start(recipe, run_dir)
                time.sleep(rng.uniform(0.2, 1.0) * took)
                workers = children_of(process.pid)
                if process.poll() is None:
                    kills += 1
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    orphans += still_there(workers)
            assert start(recipe, run_dir).wait() == 0
            equal += files_of(run_dir) == calm
            print(f"{kills} kills, {equal} of {rounds} runs equal", file=sys.stderr, flush=True)
    row = {"figure": "F13 corpus: runs equal after kills", "value": equal / rounds, "spread": 0}
    row |= {
        "unit": f"share of {rounds} runs, {kills} kills",
        "peer": "datatrove: same config needed",
    }
    print(json.dumps({**row, "goal": 1.0, "holds": equal == rounds}))
    row = {"figure": "F13 corpus: workers left behind", "value": orphans, "spread": 0}
    row |= {"unit": f"processes, {kills} kills", "peer": None}
    print(json.dumps({**row, "goal": 0, "holds": orphans == 0}))


if __name__ == "__main__":
    main()
