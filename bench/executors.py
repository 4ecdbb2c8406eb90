"""The document steps on many machines: every executor writes the bytes of one process.

    python bench/executors.py [--corpus ../shared/data/corpus] [--kinds local ray slurm]

Every `.jsonl.gz` of the folder is one task of datatrove's executor, with the default settings.
`slurm` needs a Slurm that answers `sinfo`; one machine is enough. Compared are all files but
datatrove's own logs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import Source
from teenytinyllama.stages.corpus.datatrove_executors import executor_for

MAX_SLURM_S = 280


def files_of(folder: Path) -> dict[str, str]:
    """Hash of every file that the steps wrote."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "logs"
    }


def run(kind: str, workers: int, corpus: Path, folder: Path) -> float:
    """Seconds until the last task is done."""
    options: dict[str, Any] = {}
    if kind == "slurm":
        asked = ["sinfo", "-h", "-o", "%R"]
        partition = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        options = {"time": "00:30:00", "partition": partition.split()[0], "qos": ""}
    source = Source(kind="files", path=f"{corpus}/*.jsonl.gz", license="CC0-1.0")
    settings = CorpusSettings(sources=(source,))
    began = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):
        executor_for(kind, settings, "pt", folder, workers=workers, **options).run()
    while kind == "slurm" and len(list((folder / "logs/completions").glob("*"))) < len(
        sorted(corpus.glob("*.jsonl.gz"))
    ):
        if time.monotonic() - began > MAX_SLURM_S:
            sys.exit(f"Slurm's tasks did not end: {folder}/logs/slurm_logs")
        time.sleep(1)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("../shared/data/corpus"))
    parser.add_argument("--kinds", nargs="+", default=["local", "ray", "slurm"])
    args = parser.parse_args()
    corpus = args.corpus.absolute()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone_s = run("local", 1, corpus, folder / "alone")
        alone = files_of(folder / "alone")
        for kind in args.kinds:
            seconds = run(kind, 2, corpus, folder / kind)
            equal = files_of(folder / kind)
            same = sum(equal.get(path) == digest for path, digest in alone.items())
            row = {
                "figure": f"{kind}, 2 workers: files equal to one process's",
                "value": same,
                "spread": 0,
                "unit": f"of {len(alone)} files, {seconds:.0f} s against {alone_s:.0f} s",
                "peer": None,
                "goal": len(alone),
                "holds": equal == alone,
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
