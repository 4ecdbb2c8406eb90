"""Generation with our own models: one prompt or many, the same text for the same seed.

`generate` returns ids, `stream` yields text. `generate` uses `DecodingBatch`, as the server does:
continuous batching, where sequences join and leave between steps and each draws from its own
random stream, so that a text does not depend on the others. `stream` uses `ChatSession`, which
keeps one conversation's KV cache from turn to turn.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from teenytinyllama.errors import UserError
from teenytinyllama.inference.decoder import Decoder
from teenytinyllama.inference.sampling import GREEDY, Sampler, Sampling
from teenytinyllama.inference.text_stream import TextStream
from teenytinyllama.modeling.loading import CausalModel

SEED_STRIDE = 1_000_003  # rows of one call draw from seeds far apart
MAX_ROWS = 64
MAX_PREFILL_TOKENS = 8192  # padded tokens of one forward pass


@dataclass(eq=False)
class SequenceState:
    """One prompt, and what has been generated for it so far."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop_ids: frozenset[int] = frozenset()
    """Generation ends before any of these; they are not part of `new_ids`."""
    new_ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "cancelled", "error"] | None = None
    """A stop id, the limit (or a full context), the caller, or `error`; None while it is
    generated."""
    error: Exception | None = None
    """Why no next token could be chosen; sequences generated beside this one go on."""

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.sampling, self.prompt)

    def append(self, token: int, max_positions: int) -> None:
        """Add a token, and set `finish_reason` where the text ends: before it, or with it."""
        if token in self.stop_ids:
            self.finish_reason = "stop"
            return
        self.new_ids.append(token)
        full = len(self.prompt) + len(self.new_ids) >= max_positions
        if full or len(self.new_ids) >= self.max_new_tokens:
            self.finish_reason = "length"


class DecodingBatch:
    """Sequences generated together, a step at a time; they may join and leave between steps."""

    def __init__(self, decoder: Decoder, max_rows: int = MAX_ROWS) -> None:
        self.decoder, self.max_rows = decoder, max_rows
        self.active: list[SequenceState] = []
        self._cache = decoder.new_cache()

    @property
    def num_free(self) -> int:
        """How many more sequences fit now."""
        return self.max_rows - len(self.active)

    def admit(self, sequences: Sequence[SequenceState]) -> None:
        """Prefill the prompts and choose the first token of each.

        Raises UserError for a prompt that is empty, too long for the model's context or holds
        ids outside the vocabulary; nothing is admitted then.
        """
        for sequence in sequences:
            _check_prompt(self.decoder, sequence.prompt)
        assert len(sequences) <= self.num_free, "check num_free first"
        logits = self.decoder.prefill(self._cache, [s.prompt for s in sequences])
        self.active.extend(sequences)  # not before: a prefill that fails admits nothing
        _append_next(logits, sequences, self.decoder.max_positions)
        self._drop_finished()

    def step(self) -> None:
        """One more token for every active sequence; finished ones leave."""
        if self.active:
            ids = [sequence.new_ids[-1] for sequence in self.active]
            logits = self.decoder.decode_step(self._cache, ids)
            _append_next(logits, self.active, self.decoder.max_positions)
            self._drop_finished()

    def cancel(self, sequence: SequenceState) -> None:
        """Drop a sequence before its end; one that has ended stays as it is."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "cancelled"
            self._drop_finished()

    def _drop_finished(self) -> None:
        for row in reversed(range(len(self.active))):
            if self.active[row].finish_reason is not None:
                if self.active[row].error is not None:
                    self._cache.clear(row)  # NaN times a weight of zero is NaN
                self._cache.drop(row)
                last = self.active.pop()
                if row < len(self.active):
                    self.active[row] = last


class ChatSession:
    """One conversation whose KV cache is kept between turns: only what is new is prefilled.

    The cache is reused up to the first token where a prompt differs from the last one and its
    answer. A turn that was stopped, also by Ctrl-C, may be followed by another.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.num_prefilled = 0  # prompt tokens computed so far, over all turns
        self._held: list[int] = []
        self._cache = decoder.new_cache()

    def prefill(self, prompt: Sequence[int]) -> Tensor:
        """Logits of a prompt's next token, (1, V). Raises UserError as `DecodingBatch.admit`."""
        _check_prompt(self.decoder, prompt)
        same = 0  # the last token is always computed: its logits are needed
        while same < min(len(self._held), len(prompt) - 1) and self._held[same] == prompt[same]:
            same += 1
        del self._held[same:]
        self.num_prefilled += len(prompt) - same
        if same:
            self._cache.truncate(0, same)
            logits = self.decoder.extend(self._cache, 0, prompt[same:])
        else:
            self._cache = self.decoder.new_cache()
            logits = self.decoder.prefill(self._cache, [prompt])
        self._held.extend(prompt[same:])
        return logits

    def decode_step(self, token: int) -> Tensor:
        """Append a token; the logits of the next one, (1, V)."""
        self._cache.truncate(0, len(self._held))  # an interrupted step may have left one more
        logits = self.decoder.decode_step(self._cache, [token])
        self._held.append(token)
        return logits


def _append_next(logits: Tensor, sequences: Sequence[SequenceState], max_positions: int) -> None:
    """Choose the next token of each sequence from its row of logits, (R, V).

    A row from which none can be chosen ends that sequence alone.
    """
    best, finite = logits.argmax(-1).tolist(), logits.amax(-1).isfinite().tolist()
    for row, sequence in enumerate(sequences):
        try:
            if not finite[row]:
                raise not_finite()
            greedy = sequence.sampling.is_plain_greedy
            token = best[row] if greedy else sequence.sampler.sample(logits[row])
            sequence.append(token, max_positions)
        except Exception as error:
            sequence.error, sequence.finish_reason = error, "error"


def not_finite() -> UserError:
    """The error for a model from whose numbers nothing can be chosen."""
    what = "the model computes NaN or infinity"
    return UserError("model-not-finite", "logits", what, "use an earlier checkpoint, or fp32")


def _check_prompt(decoder: Decoder, prompt: Sequence[int]) -> None:
    if not prompt:
        raise UserError("prompt-empty", "prompt", "0 tokens", "start with the BOS token")
    if len(prompt) >= decoder.max_positions:
        what = f"{len(prompt)} tokens; the model's context is {decoder.max_positions}"
        raise UserError("prompt-too-long", "prompt", what, "shorten it, or drop earlier turns")
    if min(prompt) < 0 or max(prompt) >= decoder.vocab_size:
        what = f"ids {min(prompt)} to {max(prompt)}, the vocabulary has {decoder.vocab_size}"
        raise UserError("prompt-ids", "prompt", what, "use the model's own tokenizer")


def generate(
    model: CausalModel | Decoder,
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
    """New token ids for each prompt, without stop ids.

    Row `i` draws from the stream of `seed + i * SEED_STRIDE`: a prompt alone gives what it gives as
    the first of many. At most MAX_ROWS are generated at once. A result shorter than
    `max_new_tokens` ended at a stop id or at the model's context length. Raises UserError for a
    prompt or a value that cannot be used, and for a model that computes NaN.
    """
    if max_new_tokens < 1:
        raise UserError("sampling-value", "max_new_tokens", f"got {max_new_tokens}", "at least 1")
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    sequences = []
    for index, prompt in enumerate(prompts):
        own_seed = (seed + index * SEED_STRIDE) % 2**63
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, own_seed)
        sequences.append(SequenceState(list(prompt), max_new_tokens, sampling, frozenset(stop_ids)))
    batch = DecodingBatch(decoder, min(MAX_ROWS, max(len(sequences), 1)))
    waiting = list(reversed(sequences))
    while waiting or batch.active:
        while waiting and batch.num_free:
            batch.admit(_take_prefill(waiting, batch.num_free))
        batch.step()
    for sequence in sequences:
        _raise_error(sequence)
    return [sequence.new_ids for sequence in sequences]


def _raise_error(sequence: SequenceState) -> None:
    if sequence.error is not None:
        raise sequence.error


def _take_prefill(waiting: list[SequenceState], num_free: int) -> list[SequenceState]:
    """Take from the end of `waiting` what is prefilled in one pass: bounded in padded tokens."""
    taken = [waiting.pop()]
    width = len(taken[0].prompt)
    while waiting and len(taken) < num_free:
        width = max(width, len(waiting[-1].prompt))
        if width * (len(taken) + 1) > MAX_PREFILL_TOKENS:
            break
        taken.append(waiting.pop())
    return taken


def stream(
    model: CausalModel | Decoder | ChatSession,
    sequence: SequenceState,
    text: TextStream,
) -> Generator[str, None, None]:
    """The text of one sequence as it is generated, in parts of valid UTF-8.

    Ends at the sequence's limits or at a stop string of `text`; `sequence.finish_reason` says
    which. A `ChatSession` prefills only what is new of the prompt.
    """
    if not isinstance(model, ChatSession):
        model = ChatSession(model if isinstance(model, Decoder) else Decoder(model))
    session = model
    max_positions = session.decoder.max_positions
    _append_next(session.prefill(sequence.prompt), [sequence], max_positions)
    num_pushed = 0
    while True:
        for token in sequence.new_ids[num_pushed:]:
            num_pushed += 1
            if part := text.push(token):
                yield part
            if text.stopped:
                sequence.finish_reason = "stop"
                return
        _raise_error(sequence)
        if sequence.finish_reason is not None:
            break
        _append_next(session.decode_step(sequence.new_ids[-1]), [sequence], max_positions)
    if part := text.finish():
        yield part
    if text.stopped:
        sequence.finish_reason = "stop"
