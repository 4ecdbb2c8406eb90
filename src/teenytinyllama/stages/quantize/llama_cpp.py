"""llama.cpp itself, from the wheel `xllamacpp`: what a GGUF file does where it will be used.

The wheel holds the whole of llama.cpp as one library, and runs its server inside this process on
a free port of 127.0.0.1. Nothing is compiled, nothing is downloaded.
"""

from __future__ import annotations

import json
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

    def generate(self, ids: Sequence[int], num_tokens: int) -> dict[str, float]:
        """llama.cpp's own timings for a prompt and exactly so many greedy tokens after it."""
        answer = self._server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": num_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        timings: dict[str, float] = answer["timings"]
        return timings
