"""llama.cpp's speed and memory on a GGUF file.

Run as a script it measures one file in a process of its own, so that the peak of memory is the
runtime's and not that of the process that wrote the file.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from teenytinyllama.inference.llama_cpp import LlamaCppRuntime

SCRIPT_PROMPT_TOKENS, SCRIPT_NEW_TOKENS, SCRIPT_REPEATS = 32, 64, 3


def measure(path: Path, *, vocab_size: int, num_threads: int) -> dict[str, float]:
    """Tokens per second and peak memory of llama.cpp on one file: one stream, greedy.

    Median of three runs after one to warm up, in a fresh process.
    """
    command = [sys.executable, __file__, str(path), str(vocab_size), str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    metrics: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return metrics


def peak_memory_bytes() -> int:
    """The most memory that this process has held since it started.

    Linux keeps `ru_maxrss` across `exec`, so that a child would show its parent's peak.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _main(path: str, vocab_size: str, num_threads: str) -> None:
    ids = [1] + [7 + 101 * index % (int(vocab_size) - 7) for index in range(SCRIPT_PROMPT_TOKENS)]
    context = SCRIPT_PROMPT_TOKENS + SCRIPT_NEW_TOKENS + 32
    with LlamaCppRuntime(Path(path), context=context, num_threads=int(num_threads)) as runtime:
        runtime.generate(ids, SCRIPT_NEW_TOKENS)
        timings = [runtime.generate(ids, SCRIPT_NEW_TOKENS) for _ in range(SCRIPT_REPEATS)]
    metrics = {
        "prefill_tokens_per_s": statistics.median(t["prompt_per_second"] for t in timings),
        "tokens_per_s": statistics.median(t["predicted_per_second"] for t in timings),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    sys.stdout.write(json.dumps(metrics) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
