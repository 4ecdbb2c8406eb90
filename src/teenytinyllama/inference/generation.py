"""Generation with our own models: choose tokens, one prompt or many, the same text for a seed.

`generate` gives ids, `stream` gives text as it comes. `generate` stands on `Batch`, which the
server uses too: conversations join and leave between steps, and each draws from its own random
stream, so that what one gets does not depend on who else is there. `stream` stands on `Dialogue`,
which keeps one conversation's keys and values from turn to turn.
"""

from __future__ import annotations

import codecs
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from teenytinyllama.errors import UserError
from teenytinyllama.inference.decoder import Decoder

SEED_STRIDE = 1_000_003  # rows of one call draw from seeds far apart
MAX_ROWS = 64
TOKENS_PER_READ = 8192


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults take the most likely one."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the most likely token, whatever else is set."""
    top_k: int = 0
    """Only the k most likely tokens stay; 0: all."""
    top_p: float = 1.0
    """Only the most likely tokens that together reach this probability stay."""
    min_p: float = 0.0
    """Only tokens at least this share as likely as the most likely one stay."""
    repetition_penalty: float = 1.0
    """Tokens seen before, prompt included, become less likely by this factor; 1: no effect."""
    seed: int = 0
    """Equal seeds give equal text."""

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("temperature", 0 <= self.temperature <= 100, "0 to 100"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 100, "above 0, at most 100"),
            ("seed", 0 <= self.seed < 2**63, "0 to 2**63 - 1"),
        ):
            if not fits:
                what = f"got {getattr(self, name)}, expected {expected}"
                raise UserError("sampling-value", name, what, f"set {name} to {expected}")


@dataclass(eq=False)
class Request:
    """One prompt, and what has been generated for it so far."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop_ids: frozenset[int] = frozenset()
    """Generation ends before any of these; they are not part of `new_ids`."""
    new_ids: list[int] = field(default_factory=list)
    finish: Literal["stop", "length", "cancelled"] | None = None
    """Why it ended: a stop id, the limit (or the context is full), or the caller."""

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.sampling.seed)
        self._seen = set(self.prompt) if self.sampling.repetition_penalty != 1 else set()

    @property
    def draws(self) -> bool:
        """Whether the next token is anything but the most likely one."""
        return self.sampling.temperature > 0 or self.sampling.repetition_penalty != 1

    def choose(self, logits: Tensor) -> int:
        """The next token by this request's own sampling and random stream; logits are (V,)."""
        if self._seen:
            logits = _penalised(logits, sorted(self._seen), self.sampling.repetition_penalty)
        if self.sampling.temperature > 0:
            probabilities = _filtered(logits, self.sampling)
            token = int(torch.multinomial(probabilities.cpu(), 1, generator=self._generator))
        else:
            token = int(logits.argmax())
        if self.sampling.repetition_penalty != 1:
            self._seen.add(token)
        return token

    def accept(self, token: int, max_positions: int) -> None:
        """Append a token, and see whether the text ends: before it, or with it."""
        if token in self.stop_ids:
            self.finish = "stop"
            return
        self.new_ids.append(token)
        full = len(self.prompt) + len(self.new_ids) >= max_positions
        if full or len(self.new_ids) >= self.max_new_tokens:
            self.finish = "length"


def _penalised(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    ids = torch.tensor(seen, device=logits.device)
    score = logits[ids]
    return logits.index_copy(0, ids, torch.where(score < 0, score * penalty, score / penalty))


def _filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (V,) after temperature, top-k, top-p and min-p, in this order."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        sizes, order = logits.sort(descending=True)
        before = sizes.softmax(-1).cumsum(-1).roll(1)
        before[0] = 0.0  # the most likely token always stays
        logits = logits.masked_fill(
            torch.zeros_like(logits, dtype=torch.bool).index_put(
                (order,), before >= sampling.top_p
            ),
            -torch.inf,
        )
    probabilities = logits.softmax(-1)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.max()
        probabilities = torch.where(probabilities < least, 0.0, probabilities)
    return probabilities


class Batch:
    """Requests generated together, a step at a time; they may join and leave between steps."""

    def __init__(self, decoder: Decoder, max_rows: int = MAX_ROWS) -> None:
        self.decoder, self.max_rows = decoder, max_rows
        self.active: list[Request] = []
        self._memory = decoder.new_memory()

    @property
    def num_free(self) -> int:
        """How many more requests fit now."""
        return self.max_rows - len(self.active)

    def admit(self, requests: Sequence[Request]) -> None:
        """Read the prompts and choose each one's first token.

        Raises UserError for a prompt that is empty, too long for the model's context or holds
        ids outside the vocabulary; nothing is admitted then.
        """
        for request in requests:
            _check_prompt(self.decoder, request.prompt)
        assert len(requests) <= self.num_free, "ask num_free first"
        self.active.extend(requests)
        logits = self.decoder.read(self._memory, [r.prompt for r in requests])
        _take(logits, requests, self.decoder.max_positions)
        self._drop_finished()

    def step(self) -> None:
        """One more token for every active request; finished ones leave."""
        if self.active:
            ids = [request.new_ids[-1] for request in self.active]
            logits = self.decoder.step(self._memory, ids)
            _take(logits, self.active, self.decoder.max_positions)
            self._drop_finished()

    def cancel(self, request: Request) -> None:
        """Let a request go before its end; one that has ended already stays as it is."""
        if request.finish is None:
            request.finish = "cancelled"
            self._drop_finished()

    def _drop_finished(self) -> None:
        for row in reversed(range(len(self.active))):
            if self.active[row].finish is not None:
                self._memory.drop(row)
                last = self.active.pop()
                if row < len(self.active):
                    self.active[row] = last


class Dialogue:
    """One conversation, kept between its turns: of a prompt only what is new is read.

    A prompt that goes on from what was read and said before is read from where they part; any
    other begins anew. A turn that was broken off, also by Ctrl-C, may be followed by another.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.num_read = 0  # prompt tokens computed so far, over all turns
        self._held: list[int] = []
        self._memory = decoder.new_memory()

    def begin(self, prompt: Sequence[int]) -> Tensor:
        """Read a prompt; the logits of its next token, (1, V). Raises UserError as `admit` does."""
        _check_prompt(self.decoder, prompt)
        same = 0  # the last token is always read: its logits are asked for
        while same < min(len(self._held), len(prompt) - 1) and self._held[same] == prompt[same]:
            same += 1
        del self._held[same:]
        self.num_read += len(prompt) - same
        if same:
            self._memory.cut(0, same)
            logits = self.decoder.extend(self._memory, 0, prompt[same:])
        else:
            self._memory = self.decoder.new_memory()
            logits = self.decoder.read(self._memory, [prompt])
        self._held.extend(prompt[same:])
        return logits

    def go_on(self, token: int) -> Tensor:
        """Append a token; the logits of the next one."""
        self._memory.cut(0, len(self._held))  # a broken-off step may have left one more
        logits = self.decoder.step(self._memory, [token])
        self._held.append(token)
        return logits


def _take(logits: Tensor, requests: Sequence[Request], max_positions: int) -> None:
    """Choose the next token of each request from its row of logits, (R, V)."""
    best, finite = logits.argmax(-1).tolist(), logits.amax(-1).isfinite().tolist()
    for row, request in enumerate(requests):
        if not finite[row]:
            raise UserError(
                "model-not-finite",
                "logits",
                "the model computes NaN or infinity",
                "use an earlier checkpoint, or fp32",
            )
        token = request.choose(logits[row]) if request.draws else best[row]
        request.accept(token, max_positions)


def _check_prompt(decoder: Decoder, prompt: Sequence[int]) -> None:
    if not prompt:
        raise UserError("prompt-empty", "prompt", "0 tokens", "begin with the BOS token")
    if len(prompt) >= decoder.max_positions:
        what = f"{len(prompt)} tokens; the model's context is {decoder.max_positions}"
        raise UserError("prompt-too-long", "prompt", what, "shorten it, or drop earlier turns")
    if min(prompt) < 0 or max(prompt) >= decoder.vocab_size:
        what = f"ids {min(prompt)} to {max(prompt)}, the vocabulary has {decoder.vocab_size}"
        raise UserError("prompt-ids", "prompt", what, "use the model's own tokenizer")


def generate(
    model: LlamaForCausalLM | Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop_ids: Sequence[int] = (),
    seed: int = 0,
) -> list[list[int]]:
    """New token ids for each prompt, stop ids left out.

    Row `i` draws from the stream of `seed + i * SEED_STRIDE`, so that a prompt alone gives what
    it gives as the first of many. At most MAX_ROWS are generated at once. A result shorter
    than `max_new_tokens` ended at a stop id or at the model's context length.
    """
    if max_new_tokens < 1:
        raise UserError("sampling-value", "max_new_tokens", f"got {max_new_tokens}", "at least 1")
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    requests = []
    for index, prompt in enumerate(prompts):
        own_seed = (seed + index * SEED_STRIDE) % 2**63
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, own_seed)
        requests.append(Request(list(prompt), max_new_tokens, sampling, frozenset(stop_ids)))
    batch = Batch(decoder, min(MAX_ROWS, max(len(requests), 1)))
    waiting = list(reversed(requests))
    while waiting or batch.active:
        while waiting and batch.num_free:
            batch.admit(_next_to_read(waiting, batch.num_free))
        batch.step()
    return [request.new_ids for request in requests]


def _next_to_read(waiting: list[Request], num_free: int) -> list[Request]:
    """Take from the end of `waiting` what is read in one pass: bounded in padded tokens."""
    taken = [waiting.pop()]
    width = len(taken[0].prompt)
    while waiting and len(taken) < num_free:
        width = max(width, len(waiting[-1].prompt))
        if width * (len(taken) + 1) > TOKENS_PER_READ:
            break
        taken.append(waiting.pop())
    return taken


def stream(
    model: LlamaForCausalLM | Decoder | Dialogue,
    request: Request,
    text: TextStream,
) -> Generator[str, None, None]:
    """The text of one request as it comes; every piece is valid UTF-8 and may be shown at once.

    Ends at the request's limits or at a stop string of `text`; `request.finish` says which. A
    `Dialogue` reads only what is new of the prompt.
    """
    if isinstance(model, LlamaForCausalLM):
        model = Decoder(model)
    dialogue = Dialogue(model) if isinstance(model, Decoder) else model
    max_positions = dialogue.decoder.max_positions
    _take(dialogue.begin(request.prompt), [request], max_positions)
    given = 0
    while True:
        for token in request.new_ids[given:]:
            given += 1
            if piece := text.push(token):
                yield piece
            if text.stopped:
                request.finish = "stop"
                return
        if request.finish is not None:
            break
        _take(dialogue.go_on(request.new_ids[-1]), [request], max_positions)
    if piece := text.finish():
        yield piece
    if text.stopped:
        request.finish = "stop"


class TextStream:
    r"""Turns token ids into text as they come.

    A character spelt in bytes is held back until it is whole (bytes that never become one are
    shown as U+FFFD), and so is text that may be the beginning of a stop string. The one space
    that SentencePiece puts before a text's first word is left out with `strip_first_space`; where
    a text is gone on with, that space is a real one. `vocabulary` holds the bytes of each id.

    >>> spoken = TextStream([b" ol", b"\xc3", b"\xa1", b"!"], stop=["!"])
    >>> [spoken.push(token) for token in (0, 1, 2, 3)], spoken.stopped
    (['ol', '', 'á', ''], True)
    """

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        stop: Sequence[str] = (),
        *,
        strip_first_space: bool = True,
    ) -> None:
        self.stopped = False
        self._vocabulary = vocabulary
        self._stop = [word for word in stop if word]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._strips = strip_first_space

    def push(self, token: int) -> str:
        """The text that this token makes certain; may be empty."""
        return self._release(self._decoder.decode(self._vocabulary[token]))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if self._strips and text:
            text = text.removeprefix(" ")
            self._strips = False
        self._held += text
        ends = [at for at in (self._held.find(word) for word in self._stop) if at >= 0]
        if ends:
            self.stopped = True
            return self._held[: min(ends)]
        keep = max((_overlap(self._held, word) for word in self._stop), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released


def _overlap(text: str, word: str) -> int:
    """How many of the last characters of `text` could begin `word`.

    >>> _overlap("fim. Usu", "Usuário"), _overlap("fim", "Usuário")
    (3, 0)
    """
    for size in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:size]):
            return size
    return 0
