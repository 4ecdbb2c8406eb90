"""The best model and training for a budget, GPUs and text. Arithmetic only, without torch."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.conversations import SPECIAL_TOKENS
from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token, num_parameters, padded_vocab_size
from teenytinyllama.planning.little_text import LittleTextTraining, ways_to_train
from teenytinyllama.planning.plan_request import (
    ALPHABET_BITS,
    PORTUGUESE_BYTES_PER_CHARACTER,
    PlanRequest,
    check_request,
)
from teenytinyllama.planning.reference_data import shapes, tiny_shape
from teenytinyllama.planning.scaling_laws import (
    MIN_TOKENS_OF_LAWS,
    MIN_UNIQUE_TOKENS_OF_LAWS,
    Law,
    law_offset,
    published_law,
)
from teenytinyllama.progress import format_bytes, format_duration
from teenytinyllama.settings.training import ModelSettings

# Bytes of text per token by vocabulary size: Portuguese, SentencePiece BPE; interpolated by log.
# In other scripts a character has more bytes, and a token about as many characters.
BYTES_PER_TOKEN = {2048: 3.1, 4096: 3.5, 8192: 3.9, 16_384: 4.3, 32_000: 4.6}
# A larger vocabulary pays only where the text has each token often: bytes of text, vocabulary.
VOCABULARY_BY_TEXT = (
    (4e5, 1024),
    (3e6, 2048),
    (15e6, 4096),
    (60e6, 8192),
    (300e6, 16_384),
    (1e30, 32_000),
)
MAX_EMBEDDING_SHARE = 0.5
MIN_VOCABULARY, TOKENS_PER_WORD = 512, 2.5
# With fewer tokens per parameter than this a model learns nothing.
MIN_TOKENS_PER_PARAMETER = 1
# Short runs learn more from many small steps (EXPERIMENTS.md, quick start).
MIN_STEPS = 500
# Of two models whose losses differ by less than this many nats, the cheaper one is chosen.
SAME_LOSS = 0.01
# More epochs than these are almost as good as new text only with much weight decay, which the
# laws do not know (docs/little-text.md).
EPOCHS_LIKE_NEW_TEXT = 4.0
USUAL_WEIGHT_DECAY = 0.1
MANY_EPOCHS = 64.0
MAX_TRIES = 50
# fp32 weights, gradients and two moments; the rest of the memory is for activations.
BYTES_PER_PARAMETER = 16
MEMORY_FOR_STATE = 0.6


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a training. GPU energy is what its meter would show; the rest is modelled."""

    hours: float
    gpu_kwh: float
    host_kwh: float
    emissions_kg: float
    usd: float

    @property
    def kwh(self) -> float:
        """Energy of GPUs and host."""
        return self.gpu_kwh + self.host_kwh


@dataclass(frozen=True)
class ExpectedLoss:
    """Loss in nats per token with its interval, and bits per byte; None below the laws' range."""

    loss: float | None
    low: float | None
    high: float | None
    bits_per_byte: float | None


@dataclass(frozen=True)
class Plan:
    """The chosen model and training, their cost and expected loss."""

    request: PlanRequest
    model: ModelSettings
    vocab_size: int
    parameters: int
    tokens: float
    unique_tokens: float
    tokens_per_step: int
    num_steps: int
    peak_learning_rate: float
    weight_decay: float
    cost: TrainingCost
    expected: ExpectedLoss
    law_loss: float
    limit: str
    gain_of_twice_the_money: float
    gain_of_twice_the_text: float
    little_text: tuple[LittleTextTraining, ...] = ()
    """What the money buys where the text is read again and again."""
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def epochs(self) -> float:
        """Epochs over the text."""
        return self.tokens / self.unique_tokens

    @property
    def warning(self) -> str:
        """What to expect of the smallest model; empty for a larger one."""
        if self.model != tiny_shape():
            return ""
        return (
            f"Tiny: {self.parameters / 1e6:.2g} M parameters learn the look of a language, not "
            "facts or whole sentences. Ten times the text makes a much better model."
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values for JSON, which has no infinities: they are None."""
        request = asdict(self.request)
        request["model"] = self.request.model.model_dump() if self.request.model else None
        if not self.request.has_text:
            request["text_bytes"] = None
        values = {
            **asdict(self),
            "request": request,
            "model": self.model.model_dump(),
            "epochs": self.epochs,
            "kwh": self.cost.kwh,
        }
        return {key: _finite_or_none(value) for key, value in values.items()}


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def bytes_per_token(
    vocab_size: int,
    bytes_per_character: float = PORTUGUESE_BYTES_PER_CHARACTER,
    bits_per_character: float = ALPHABET_BITS,
) -> float:
    """Approximate bytes of text per token of such a vocabulary; for Portuguese by default.

    Among alphabets a token has about as many characters; where each character says more, as in
    Chinese or Korean, it has fewer.

    >>> round(bytes_per_token(32_000), 2), round(bytes_per_token(1024), 2)
    (4.6, 3.1)
    >>> round(bytes_per_token(32_000, bytes_per_character=2.7), 1)  # Bengali
    12.1
    >>> round(bytes_per_token(32_000, 2.9, 9.7), 1)  # Chinese: one and a half characters
    4.2
    """
    scale = bytes_per_character / PORTUGUESE_BYTES_PER_CHARACTER
    if bits_per_character > ALPHABET_BITS:
        scale *= (ALPHABET_BITS / bits_per_character) ** 2
    known = sorted(BYTES_PER_TOKEN.items())
    if vocab_size <= known[0][0]:
        return known[0][1] * scale
    for (small, low), (large, high) in pairwise(known):
        if vocab_size <= large:
            share = math.log(vocab_size / small) / math.log(large / small)
            return (low + share * (high - low)) * scale
    return known[-1][1] * scale


def vocabulary_for(
    text_bytes: float,
    bytes_per_character: float = PORTUGUESE_BYTES_PER_CHARACTER,
    bits_per_character: float = ALPHABET_BITS,
) -> int:
    """Vocabulary size for so much text, compared by its characters and what each of them says."""
    comparable = text_bytes * PORTUGUESE_BYTES_PER_CHARACTER / bytes_per_character
    comparable *= max(1.0, bits_per_character / ALPHABET_BITS) ** 2
    return next(size for limit, size in VOCABULARY_BY_TEXT if comparable <= limit)


def batch_and_rate(flops: float, sequence_length: int) -> tuple[int, float]:
    """Tokens per step and peak learning rate for so much compute (DeepSeek LLM, 2024, eq. 1).

    Tokens are rounded to a power of two of whole sequences.

    >>> batch_and_rate(3.95e18, 2048)
    (262144, 0.00148)
    """
    tokens, rate = 0.2920 * flops**0.3271, 0.3118 * flops**-0.1250
    rows = 2 ** max(0, round(math.log2(tokens / sequence_length)))
    return rows * sequence_length, float(f"{min(rate, 6e-3):.3g}")


def weight_decay(epochs: float, steps_per_epoch: float, rate: float) -> float:
    """The usual one for few epochs; for more, weights keep about the last epoch's gradients.

    A step takes rate times decay of a weight, so a gradient is forgotten in 1 / (rate * decay)
    steps. How many epochs that is decides whether a model overfits, whatever the size of text and
    steps (Wang and Aitchison, 2024, arXiv 2405.13698; EXPERIMENTS.md, little text): one.

    >>> weight_decay(16, 355, 2.07e-3), weight_decay(4, 355, 2.07e-3)
    (1.4, 0.1)
    """
    if epochs <= 1.01 * EPOCHS_LIKE_NEW_TEXT:
        return USUAL_WEIGHT_DECAY
    return max(USUAL_WEIGHT_DECAY, float(f"{1 / (rate * steps_per_epoch):.2g}"))


def cost_of(
    request: PlanRequest, model: ModelSettings, vocab_size: int, tokens: float
) -> TrainingCost:
    """Hours, energy, carbon and money for training on so many tokens."""
    flops = tokens * flops_per_token(model, vocab_size, request.sequence_length)
    hours = flops / request.flops_per_s / 3600
    gpu_kwh = hours * request.gpu.mean_power_w * request.num_gpus / 1000
    host_kwh = hours * request.host_power_w * request.num_gpus / 1000
    kg = (gpu_kwh + host_kwh) * carbon_kg_per_kwh(request.country)
    return TrainingCost(
        hours, gpu_kwh, host_kwh, kg, hours * request.usd_per_hour * request.num_gpus
    )


@cache
def carbon_kg_per_kwh(country: str) -> float:
    """Mean carbon intensity of a country's grid, from the table that the energy meter uses."""
    spec = find_spec("codecarbon")
    assert spec is not None, "codecarbon is a dependency of this package"
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data/private_infra/global_energy_mix.json"
    row = json.loads(path.read_text(encoding="utf-8")).get(country)
    if row is None:
        what = f'no carbon intensity is known for "{country}"'
        raise UserError(
            "country-unknown", "--country", what, "--country BRA, or another ISO 3166 code"
        )
    return float(row["carbon_intensity"]) / 1000


def make_plan(request: PlanRequest) -> Plan:
    """The best model and number of tokens for a request. Raises UserError where there is none.

    Each shape gets the tokens that the budget buys, at most `max_epochs` epochs; the shape with the
    lowest expected loss is chosen.
    """
    check_request(request)
    law = _law(request)
    vocab_size = _vocabulary(request, law)
    best = _best(request, law, vocab_size)
    if best is None:
        raise _too_small(request, law, vocab_size)
    loss, model, tokens = best
    # Where no text is named the plan says how much it needs: each token read once.
    unique = unique_tokens(request, vocab_size) if request.has_text else tokens
    compute = tokens * flops_per_token(model, vocab_size, request.sequence_length)
    tokens_per_step, rate = batch_and_rate(compute, request.sequence_length)
    while tokens < MIN_STEPS * tokens_per_step and tokens_per_step > request.sequence_length:
        tokens_per_step //= 2
    steps = max(1, round(tokens / tokens_per_step))
    cost = cost_of(request, model, vocab_size, steps * tokens_per_step)
    decay = weight_decay(tokens / unique, unique / tokens_per_step, rate)
    money, text = _gains(request, law, vocab_size, loss)
    return Plan(
        request=request,
        model=model,
        vocab_size=vocab_size,
        parameters=num_parameters(model, vocab_size),
        tokens=float(steps * tokens_per_step),
        unique_tokens=unique,
        tokens_per_step=tokens_per_step,
        num_steps=steps,
        peak_learning_rate=rate,
        weight_decay=decay,
        cost=cost,
        expected=_expected_for(request, num_parameters(model, vocab_size), tokens, unique),
        law_loss=loss,
        limit="text" if text > money else "money",
        gain_of_twice_the_money=money,
        gain_of_twice_the_text=text,
        little_text=_little_text(request, model, vocab_size, tokens, cost),
        notes=_notes(request, law, vocab_size, tokens, loss, decay),
    )


def _little_text(
    request: PlanRequest,
    model: ModelSettings,
    vocab_size: int,
    tokens: float,
    cost: TrainingCost,
) -> tuple[LittleTextTraining, ...]:
    """Ways to spend the budget on a text that is read more often than pays by itself."""
    unique = unique_tokens(request, vocab_size)
    if tokens <= 1.01 * EPOCHS_LIKE_NEW_TEXT * unique:
        return ()
    return tuple(
        ways_to_train(
            parameters=num_parameters(model, vocab_size),
            text_mb=unique * _bytes_per_token(request, vocab_size) / 1e6,
            epochs=tokens / unique,
            hours=cost.hours,
            usd=cost.usd,
            hours_available=request.hours,
            difficulty=PORTUGUESE_BYTES_PER_CHARACTER / request.bytes_per_character,
        )
    )


def expected_loss(law: Law, parameters: float, tokens: float, unique: float) -> ExpectedLoss:
    """Held-out loss with its 95 % interval, for Portuguese text and a vocabulary of 32,000."""
    if not _is_known(tokens, unique):
        return ExpectedLoss(None, None, None, None)
    found = law_offset(law)
    middle = law.loss_repeating(parameters, tokens, unique) + found.offset
    return ExpectedLoss(
        loss=middle,
        low=middle - found.half_width,
        high=middle + found.half_width,
        bits_per_byte=middle / math.log(2) / bytes_per_token(32_000),
    )


def _is_known(tokens: float, unique: float) -> bool:
    """Whether the published laws predict a loss."""
    return tokens >= MIN_TOKENS_OF_LAWS and min(tokens, unique) >= MIN_UNIQUE_TOKENS_OF_LAWS


def _law(request: PlanRequest) -> Law:
    return request.fitted.law if request.fitted else published_law(request.law)


def _expected_for(
    request: PlanRequest, parameters: float, tokens: float, unique: float
) -> ExpectedLoss:
    """Loss by the law fitted to the user's text where there is one, else by the public runs."""
    fitted = request.fitted
    if fitted is None:
        return expected_loss(published_law(request.law), parameters, tokens, unique)
    middle, half = fitted.predict(parameters, tokens, unique)
    bits = middle / math.log(2) / fitted.bytes_per_token
    return ExpectedLoss(middle, max(0.0, middle - half), middle + half, bits)


def unique_tokens(request: PlanRequest, vocab_size: int) -> float:
    """Unique tokens: as counted, else estimated from the size of the text."""
    return request.unique_tokens or request.text_bytes / _bytes_per_token(request, vocab_size)


def _bytes_per_token(request: PlanRequest, vocab_size: int) -> float:
    return bytes_per_token(vocab_size, request.bytes_per_character, request.bits_per_character)


def _vocabulary(request: PlanRequest, law: Law) -> int:
    if request.vocab_size:
        return request.vocab_size
    least = smallest_vocabulary(request.num_letters)
    if not request.has_text and request.unique_tokens is None:
        return max(least, _vocabulary_for_needed_text(request, law))
    size = vocabulary_for(
        request.text_bytes, request.bytes_per_character, request.bits_per_character
    )
    # A text of few different words cannot fill it, and the tokenizer stage would raise an error.
    while size > MIN_VOCABULARY and size > TOKENS_PER_WORD * request.different_words:
        size //= 2
    return max(least, size)


def smallest_vocabulary(num_letters: int) -> int:
    """Space for bytes, special tokens, so many letters, and half as many tokens of several letters.

    >>> smallest_vocabulary(100), smallest_vocabulary(3500)
    (448, 5568)
    """
    return padded_vocab_size(256 + len(SPECIAL_TOKENS) + num_letters + num_letters // 2)


def _vocabulary_for_needed_text(request: PlanRequest, law: Law) -> int:
    """The vocabulary for as much text as the plan reads, where none is named."""
    sizes = [size for _, size in reversed(VOCABULARY_BY_TEXT)]
    for size in sizes:
        best = _best(request, law, size)
        if best and vocabulary_for(best[2] * bytes_per_token(size)) >= size:
            return size
    return sizes[-1]


def _best(
    request: PlanRequest, law: Law, vocab_size: int
) -> tuple[float, ModelSettings, float] | None:
    """Loss, shape and tokens of the best candidate; None where the budget is too small for any."""
    found = _candidates(request, law, vocab_size)
    if not found:
        return _tiny(request, law, vocab_size)
    lowest = min(row[0] for row in found)
    near = [row for row in found if row[0] <= lowest + SAME_LOSS]
    loss, _, model, tokens = min(near, key=lambda row: row[1])
    return loss, model, tokens


def _tiny(
    request: PlanRequest, law: Law, vocab_size: int
) -> tuple[float, ModelSettings, float] | None:
    """The same of the tiny shape, with more epochs than usual where the text asks for them."""
    paid, read, needed = _limits(request, vocab_size)
    if min(paid, read) < needed:
        return None
    model, unique = tiny_shape(), unique_tokens(request, vocab_size)
    tokens = min(paid, max(unique * request.max_epochs, needed))
    return law.loss_repeating(num_parameters(model, vocab_size), tokens, unique), model, tokens


def _most_epochs(request: PlanRequest) -> float:
    """Of the tiny shape: what the user asked for, else as many as are known to help."""
    asked = request.max_epochs
    return MANY_EPOCHS if asked == PlanRequest.max_epochs else asked


def other_sizes(plan: Plan) -> list[tuple[int, float, float]]:
    """Every size that the same budget can train: parameters, tokens, loss by the law."""
    found = _candidates(replace(plan.request, model=None), _law(plan.request), plan.vocab_size)
    return [
        (num_parameters(model, plan.vocab_size), tokens, loss) for loss, _, model, tokens in found
    ]


def _candidates(
    request: PlanRequest, law: Law, vocab_size: int
) -> list[tuple[float, float, ModelSettings, float]]:
    """Loss, FLOPs, shape and tokens of each shape that fits the GPU and the budget."""
    unique = unique_tokens(request, vocab_size)
    found = []
    for model in (request.model,) if request.model else shapes():
        parameters = num_parameters(model, vocab_size)
        if not request.model and not _fits(request, model, parameters, vocab_size):
            continue
        flops = flops_per_token(model, vocab_size, request.sequence_length)
        tokens = min(request.flops / flops, unique * request.max_epochs)
        if tokens >= MIN_TOKENS_PER_PARAMETER * parameters or request.model:
            loss = law.loss_repeating(parameters, tokens, unique)
            found.append((loss, tokens * flops, model, tokens))
    return found


def _fits(request: PlanRequest, model: ModelSettings, parameters: int, vocab_size: int) -> bool:
    state_gb = parameters * BYTES_PER_PARAMETER / 1e9
    embedding_share = 2 * vocab_size * model.hidden_size / parameters
    fits = state_gb <= request.gpu.memory_gb * MEMORY_FOR_STATE
    # The smallest shape is always allowed: half of it is embedding in any case.
    return fits and (embedding_share <= MAX_EMBEDDING_SHARE or model == shapes()[0])


def _gains(request: PlanRequest, law: Law, vocab_size: int, loss: float) -> tuple[float, float]:
    """By how many nats the loss falls with twice the money, and with twice the text."""
    double = 2 * (request.budget_usd or request.budget_hours or 0)
    key = "budget_usd" if request.budget_usd else "budget_hours"
    richer = replace(request, **{key: double})  # type: ignore[arg-type]
    tokens = request.unique_tokens
    fuller = replace(
        request,
        text_bytes=2 * request.text_bytes,
        unique_tokens=2 * tokens if tokens else None,
    )
    gains = []
    for other in (richer, fuller):
        found = _best(other, law, vocab_size)
        gains.append(max(0.0, loss - found[0]) if found else 0.0)
    return gains[0], gains[1]


def _too_small(request: PlanRequest, law: Law, vocab_size: int) -> UserError:
    """An error that says every limit that is too small for the smallest shape, and what is not."""
    paid, read, needed = _limits(request, vocab_size)
    found = []
    if paid < needed:
        hours = format_duration(request.hours * 3600)
        kept = f" ({request.reserve_fraction:.0%} reserved)" if request.reserve_fraction else ""
        found.append(f"{hours} on {request.gpu.title}{kept} is enough for {paid:,.0f} tokens")
    if read < needed:
        size = (
            f"{request.unique_tokens:,.0f} tokens"
            if request.unique_tokens
            else f"{format_bytes(request.text_bytes)} of text"
        )
        found.append(f"{size}, read {_most_epochs(request):g} times, is {read:,.0f} tokens")
    what = f"{' and '.join(found)}; the smallest model needs {needed:,.0f}"
    return UserError("plan-too-small", "ttl plan", what, _options_that_suffice(request, law))


def _limits(request: PlanRequest, vocab_size: int) -> tuple[float, float, float]:
    """Tokens that the budget and the text are enough for, and that the smallest model needs."""
    model = tiny_shape()
    paid = request.flops / flops_per_token(model, vocab_size, request.sequence_length)
    read = unique_tokens(request, vocab_size) * _most_epochs(request)
    return paid, read, MIN_TOKENS_PER_PARAMETER * num_parameters(model, vocab_size)


def _options_that_suffice(request: PlanRequest, law: Law) -> str:
    """The options to type for the smallest plan there is: more text may ask for more tokens."""
    enough = request
    for _ in range(MAX_TRIES):
        vocab_size = _vocabulary(enough, law)
        if _best(enough, law, vocab_size) is not None:
            break
        paid, read, needed = _limits(enough, vocab_size)
        money, text = max(1.0, needed / paid), max(1.0, needed / read)
        enough = replace(
            enough,
            budget_usd=enough.budget_usd and _rounded_up(enough.budget_usd * money),
            budget_hours=enough.budget_hours and _rounded_up(enough.budget_hours * money),
            unique_tokens=enough.unique_tokens and _rounded_up(enough.unique_tokens * text),
            text_bytes=_rounded_up(enough.text_bytes * text),
        )
    asked = []
    for option, before, after, unit in (
        ("--budget-usd", request.budget_usd, enough.budget_usd, 1.0),
        ("--hours", request.budget_hours, enough.budget_hours, 1.0),
        ("--tokens", request.unique_tokens, enough.unique_tokens, 1.0),
        ("--text-mb", request.text_bytes, enough.text_bytes, 1e6),
    ):
        counted = option == "--text-mb" and request.unique_tokens
        if after is not None and after != before and not counted:
            asked.append(f"{option} {_plain(after / unit)}")
    return " ".join(asked)


def _rounded_up(value: float) -> float:
    """Two significant digits, never less than the value.

    >>> _rounded_up(0.010001), _rounded_up(1234), _rounded_up(2.0)
    (0.011, 1300.0, 2.0)
    """
    step = 10 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.2g}")


def _plain(value: float) -> str:
    """A number as people type it, without an exponent.

    >>> _plain(0.00012), _plain(1300.0)
    ('0.00012', '1300')
    """
    return f"{value:.12f}".rstrip("0").rstrip(".")


def _notes(
    request: PlanRequest, law: Law, vocab_size: int, tokens: float, loss: float, decay: float
) -> tuple[str, ...]:
    unique = unique_tokens(request, vocab_size)
    notes = []
    each = _bytes_per_token(request, vocab_size)
    if not request.has_text and request.unique_tokens is None:
        times = min(request.max_epochs, EPOCHS_LIKE_NEW_TEXT)
        notes.append(
            f"No text is named: this needs {format_bytes(tokens * each)} of it, or "
            f"{format_bytes(tokens * each / times)} read {times:g} times. "
            "`--text PATH` plans for the text you have."
        )
    elif request.unique_tokens is None:
        notes.append(
            f"Tokens are estimated: {request.bytes_per_character:.2f} bytes per character, so "
            f"about {each:.1f} bytes per token; `ttl tokenizer` counts them. Filters remove some."
        )
    if request.fitted is not None:
        notes.append(request.fitted.summary(tokens))
    known = _is_known(tokens, unique) or request.fitted is not None
    if not known:
        notes.append(
            "Under 500 M tokens, or 100 M different ones, no published law predicts a loss: the "
            "shape is a rule of thumb."
        )
    if tokens >= 0.99 * unique * request.max_epochs:
        more = _best(replace(request, max_epochs=MANY_EPOCHS), law, vocab_size)
        gain = loss - more[0] if more else 0.0
        words = f"The text runs out before the money, after {request.max_epochs:g} epochs."
        if request.max_epochs < MANY_EPOCHS and gain > SAME_LOSS:
            words += f" --max-epochs {MANY_EPOCHS:g} would use more of it"
            words += f": {gain:.2f} nats lower." if known else "."
        notes.append(words)
    if (epochs := tokens / unique) > 1.01 * EPOCHS_LIKE_NEW_TEXT:
        notes.append(
            f"{epochs:.2g} epochs need a weight decay of {decay:g}, as `ttl new` writes it: with "
            f"{USUAL_WEIGHT_DECAY:g} the model overfits. The law is of runs without it: its loss "
            "is an extrapolation."
        )
    return tuple(notes)
