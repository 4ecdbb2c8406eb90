"""GGUF files run by llama.cpp itself, from the wheel `xllamacpp`.

The wheel contains all of llama.cpp as one library, and runs its server inside this process on
a free port of 127.0.0.1 behind a key that only this process knows. Nothing is compiled or
downloaded.
"""

from __future__ import annotations

import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from teenytinyllama.artifacts.conversations import Message, check_prompt
from teenytinyllama.errors import UserError, missing_extra

if TYPE_CHECKING:  # torch must not be loaded where llama.cpp's memory is measured
    from teenytinyllama.inference.sampling import Sampling

try:
    import gguf
    import xllamacpp
except ImportError as error:
    raise missing_extra(error.name or "xllamacpp", "llama-cpp") from error

MAX_CONTEXT = 8192  # the KV cache is allocated for all of it
LOAD_MODE_COPY = 0  # LLAMA_LOAD_MODE_NONE: a mapped file that is cut kills the process
TIMEOUT_S = 600.0  # prefill of a full context on a slow machine
# Around the placeholder of a message's text in a template: private-use characters.
OPENING, CLOSING = "\ue0f1", "\ue0f2"


@dataclass(frozen=True)
class GgufFile:
    """What is needed of a GGUF file's metadata."""

    architecture: str
    max_positions: int
    has_template: bool


def read_gguf(path: Path) -> GgufFile:
    """Read a file's metadata. Raises UserError for a file that is missing or truncated."""
    if not path.is_file():
        raise UserError("model-missing", str(path), "there is no such file", "name a .gguf file")
    try:
        reader = gguf.GGUFReader(path)
        architecture = str(reader.fields["general.architecture"].contents())
        length = reader.fields[f"{architecture}.context_length"].contents()
    except (ValueError, KeyError, IndexError, OverflowError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"is not a complete GGUF file ({reason})"
        raise UserError("model-damaged", str(path), what, "write or download it again") from error
    return GgufFile(architecture, int(length), "tokenizer.chat_template" in reader.fields)


class LlamaCppRuntime:
    """One GGUF file loaded by llama.cpp: `with LlamaCppRuntime(path) as runtime`."""

    def __init__(self, path: Path, *, context: int = 2048, num_threads: int = 1) -> None:
        self._path, self._key = path, secrets.token_hex()
        self._parameters = xllamacpp.CommonParams()
        self._parameters.model.path = str(path)
        self._parameters.n_ctx = context
        self._parameters.n_parallel = 1
        self._parameters.warmup = False
        self._parameters.load_mode = LOAD_MODE_COPY
        self._parameters.verbosity = -1
        self._parameters.api_keys = [self._key]
        for threads in (self._parameters.cpuparams, self._parameters.cpuparams_batch):
            threads.n_threads = num_threads
        self._server: Any = None

    def __enter__(self) -> Self:
        try:
            self._server = xllamacpp.Server(self._parameters)
        except RuntimeError as error:
            what = f"llama.cpp cannot load it ({error})"
            raise UserError("model-damaged", str(self._path), what, "write it again") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop llama.cpp and its threads."""
        self._server = None  # the last reference does it

    def _open(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode("utf-8"),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                message = json.loads(error.read()).get("error", {}).get("message", str(error))
            raise UserError("llama-cpp", str(self._path), message, "change the request") from error

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._open(path, body) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
        return answer

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Ids of a text; `special`: its special tokens are parsed; `bos`: BOS comes first."""
        body = {"content": text, "add_special": bos, "parse_special": special}
        ids: list[int] = self._post("/tokenize", body)["tokens"]
        return ids

    def fill_template(self, messages: Sequence[Message]) -> str:
        """A conversation up to the assistant's turn, by the file's chat template."""
        prompt: str = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        return prompt

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to the assistant's turn; text cannot forge a turn.

        Where a message contains a special token as text, it is encoded apart from the template.
        """
        text = "\n".join(message["content"] for message in messages)
        if self.tokenize(text) == self.tokenize(text, special=True):
            ids = self.tokenize(self.fill_template(messages), special=True, bos=True)
        else:
            ids = self._render_apart(messages)
        bos = self.tokenize("", bos=True)
        return ids[1:] if bos and ids[:2] == bos * 2 else ids

    def _render_apart(self, messages: Sequence[Message]) -> list[int]:
        marked: list[Message] = [
            {"role": message["role"], "content": f"{OPENING}{number}{CLOSING}"}
            for number, message in enumerate(messages)
        ]
        ids: list[int] = []
        for number, part in enumerate(self.fill_template(marked).split(OPENING)):
            place, _, rest = part.rpartition(CLOSING)
            if place:
                ids += self.tokenize(messages[int(place)]["content"])
            ids += self.tokenize(rest, special=True, bos=number == 0)
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
        self, ids: Sequence[int], num_tokens: int, *, cache_prompt: bool = False
    ) -> dict[str, float]:
        """llama.cpp's own timings for a prompt and exactly `num_tokens` greedy tokens after it.

        With `cache_prompt` a prompt read before is not read again.
        """
        answer = self._server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": num_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": cache_prompt,
            }
        )
        timings: dict[str, float] = answer["timings"]
        return timings

    def stream(
        self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling, stop: Sequence[str]
    ) -> Generator[dict[str, Any], None, None]:
        """llama.cpp's events: `content` of each, `stop_type` of the last, `timings` too.

        Closing the iterator stops the generation. The order of the filters is that of
        `next_token_probabilities`.
        """
        body = {
            "prompt": list(ids),
            "n_predict": max_new_tokens,
            "stop": [word for word in stop if word],
            "stream": True,
            "cache_prompt": True,
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            "temperature": 0.0 if sampling.is_greedy else sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": len(ids) + max_new_tokens,  # the whole text, as our sampler
            "seed": sampling.seed % 2**32,
        }
        with closing(self._open("/completion", body)) as reply:
            for line in reply:
                kind, _, data = line.decode("utf-8").partition(": ")
                if kind == "data":
                    event: dict[str, Any] = json.loads(data)
                    yield event
                    if event.get("stop"):
                        return
                elif kind == "error":
                    raise UserError(
                        "llama-cpp", str(self._path), data.strip(), "change the request"
                    )


class GgufChatModel:
    """A GGUF file with the methods of a `ChatModel`, run by llama.cpp.

    One answer at a time: callers take turns, and closing the iterator of `answer` stops the
    generation. `finish_reason` and `timings` are those of the last answer.
    """

    def __init__(self, path: Path, *, name: str = "") -> None:
        found = read_gguf(path)
        self.name = name or path.stem
        self.folder = path
        self.answers = found.has_template
        self.max_positions = min(found.max_positions, MAX_CONTEXT)
        self.finish_reason: str | None = None
        """Why the last answer ended: `stop` or `length`; None where it was cancelled."""
        self.timings: dict[str, float] = {}
        """llama.cpp's timings of the last answer: tokens read and generated, and durations."""
        num_threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
        self._runtime = LlamaCppRuntime(path, context=self.max_positions, num_threads=num_threads)
        self._runtime.__enter__()

    def close(self) -> None:
        """Stop llama.cpp and its threads."""
        self._runtime.close()

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Prompt ids: the conversation by the file's own chat template.

        A file without a template continues the last message's text. Raises UserError for a
        conversation that cannot be rendered.
        """
        check_prompt(messages)
        if self.answers:
            return self._runtime.render(messages)
        return self.encode(messages[-1]["content"])

    def encode(self, text: str) -> list[int]:
        """Ids of a text to continue, with BOS first where the file asks for one."""
        return self._runtime.tokenize(text, bos=True)

    def answer(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str] = (),
    ) -> Generator[str, None, None]:
        """Yield one answer's text as it is generated; close the iterator to stop.

        llama.cpp keeps the last conversation's KV cache: what the prompt has in common with it is
        not computed again. Raises UserError for a prompt longer than the context.
        """
        if len(prompt) >= self.max_positions:
            what = f"{len(prompt)} tokens; the model's context is {self.max_positions}"
            raise UserError("prompt-too-long", "prompt", what, "shorten it, or drop earlier turns")
        self.finish_reason, self.timings = None, {}
        strips = self.answers
        with closing(self._runtime.stream(prompt, max_new_tokens, sampling, stop)) as events:
            for event in events:
                text = str(event["content"])
                if strips and text:
                    text, strips = text.removeprefix(" "), False
                if text:
                    yield text
                if event.get("stop"):
                    self.finish_reason = "length" if event["stop_type"] == "limit" else "stop"
                    self.timings = event["timings"]
