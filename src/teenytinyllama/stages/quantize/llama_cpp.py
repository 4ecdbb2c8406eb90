"""llama.cpp itself, from the wheel `xllamacpp`: what a GGUF file does where it will be used.

The wheel holds the whole of llama.cpp as one library, and runs its server inside this process on
a free port of 127.0.0.1. Nothing is compiled, nothing is downloaded.

Run as a script it measures one file in a process of its own, so that the peak of memory is the
runtime's and not torch's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from teenytinyllama.errors import missing_extra
from teenytinyllama.formats.conversations import Message

try:
    import xllamacpp
except ImportError as error:
    raise missing_extra("xllamacpp", "llama-cpp") from error


class Runtime:
    """One GGUF file loaded by llama.cpp: `with Runtime(path) as runtime`."""

    def __init__(self, path: Path, *, context: int = 2048, num_threads: int = 1) -> None:
        self._parameters = xllamacpp.CommonParams()
        self._parameters.model.path = str(path)
        self._parameters.n_ctx = context
        self._parameters.n_parallel = 1
        self._parameters.warmup = False
        self._parameters.verbosity = -1
        for threads in (self._parameters.cpuparams, self._parameters.cpuparams_batch):
            threads.n_threads = num_threads
        self._server: Any = None

    def __enter__(self) -> Self:
        self._server = xllamacpp.Server(self._parameters)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server = None  # the last reference ends the server and its threads

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode("utf-8"),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
        return answer

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, no special ones among them."""
        body = {"content": text, "add_special": False, "parse_special": False}
        ids: list[int] = self._post("/tokenize", body)["tokens"]
        return ids

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to the assistant's turn, by the template in the file."""
        prompt = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        ids: list[int] = self._post("/tokenize", body)["tokens"]
        return ids

    def next_token(self, ids: Sequence[int]) -> tuple[int, float]:
        """The most likely next token after these ids, and its natural log-probability."""
        answer = self._server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": 1,
                "temperature": 0,
                "n_probs": 1,
                "cache_prompt": False,
            }
        )
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]
        return int(found["id"]), float(found["logprob"])

    def generate(
        self, ids: Sequence[int], num_tokens: int, *, remember_prompt: bool = False
    ) -> dict[str, float]:
        """llama.cpp's own timings for a prompt and exactly so many greedy tokens after it.

        With `remember_prompt` a prompt read before is not read again.
        """
        answer = self._server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": num_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": remember_prompt,
            }
        )
        timings: dict[str, float] = answer["timings"]
        return timings


SCRIPT_PROMPT_TOKENS, SCRIPT_NEW_TOKENS, SCRIPT_REPEATS = 32, 64, 3


def measure(path: Path, *, vocab_size: int, num_threads: int) -> dict[str, float]:
    """Tokens per second and peak memory of llama.cpp on one file: one stream, greedy.

    Median of three runs after one to warm up, in a fresh process.
    """
    command = [sys.executable, __file__, str(path), str(vocab_size), str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


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
    with Runtime(Path(path), context=context, num_threads=int(num_threads)) as runtime:
        runtime.generate(ids, SCRIPT_NEW_TOKENS)
        timings = [runtime.generate(ids, SCRIPT_NEW_TOKENS) for _ in range(SCRIPT_REPEATS)]
    figures = {
        "prefill_tokens_per_s": statistics.median(t["prompt_per_second"] for t in timings),
        "tokens_per_s": statistics.median(t["predicted_per_second"] for t in timings),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
