"""Speed and memory of llama.cpp on a GGUF file.

It runs as a script in a process of its own, so that the peak memory is llama.cpp's and not that of
the process that wrote the file.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from teenytinyllama.inference.llama_cpp import LlamaCppRuntime

NUM_PROMPT_TOKENS, NUM_NEW_TOKENS, NUM_REPEATS = 32, 64, 3


def measure_speed(path: Path, *, vocab_size: int, num_threads: int) -> dict[str, float]:
    """Tokens per second and peak memory in bytes: one stream, greedy.

    Median of three generations after one to warm up, in a new process.
    """
    command = [sys.executable, __file__, str(path), str(vocab_size), str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    metrics: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return metrics


def peak_memory_bytes() -> int:
    """The most memory that this process has held.

    Not `ru_maxrss`: Linux keeps that across `exec`, so a child would show its parent's peak.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _main(path: str, vocab_size: str, num_threads: str) -> None:
    ids = [1] + [7 + 101 * index % (int(vocab_size) - 7) for index in range(NUM_PROMPT_TOKENS)]
    context = NUM_PROMPT_TOKENS + NUM_NEW_TOKENS + 32
    with LlamaCppRuntime(Path(path), context=context, num_threads=int(num_threads)) as runtime:
        runtime.generate(ids, NUM_NEW_TOKENS)
        timings = [runtime.generate(ids, NUM_NEW_TOKENS) for _ in range(NUM_REPEATS)]
    metrics = {
        "prefill_tokens_per_s": statistics.median(t["prompt_per_second"] for t in timings),
        "tokens_per_s": statistics.median(t["predicted_per_second"] for t in timings),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    sys.stdout.write(json.dumps(metrics) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
