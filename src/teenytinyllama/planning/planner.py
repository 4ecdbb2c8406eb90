"""From money or hours, a card and the text on hand to a complete plan. Arithmetic only."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError
from teenytinyllama.modeling.model_size import flops_per_token, num_parameters
from teenytinyllama.planning.curve_fit import FittedLaw
from teenytinyllama.planning.reference_data import Gpu, shapes
from teenytinyllama.planning.scaling_laws import MIN_TOKENS_OF_LAWS, Law, calibration, law
from teenytinyllama.settings.training import ModelSettings

# Text per token by vocabulary, in bytes: Portuguese text, SentencePiece BPE. Between rows by log.
# In another script a character has more bytes, and a token about as many characters.
BYTES_PER_TOKEN = {2048: 3.1, 4096: 3.5, 8192: 3.9, 16_384: 4.3, 32_000: 4.6}
# A vocabulary is worth its rows in the embedding only where the text shows each piece often.
PORTUGUESE_BYTES_PER_CHARACTER = 1.03
VOCABULARY_BY_TEXT = (
    (4e5, 1024),
    (3e6, 2048),
    (15e6, 4096),
    (60e6, 8192),
    (300e6, 16_384),
    (1e30, 32_000),
)
MAX_EMBEDDING_SHARE = 0.5
MIN_VOCABULARY, PIECES_PER_WORD = 512, 2.5
MIN_CONTEXT, MAX_CONTEXT = 64, 1 << 17
# Fewer tokens than this for each parameter leave a model that has learnt nothing.
MIN_TOKENS_PER_PARAMETER = 1
# Small runs learn more from many small steps (EXPERIMENTS.md, quick start).
MIN_STEPS = 500
# Of two models whose losses differ by less than this many nats, the cheaper one is taken.
SAME_LOSS = 0.01
MANY_EPOCHS = 16.0
# fp32 weights, gradients and two moments; the rest of the memory is for activations.
BYTES_PER_PARAMETER = 16
MEMORY_FOR_STATE = 0.6


@dataclass(frozen=True)
class Question:
    """What the user has. Money or hours, not both; text in tokens, or bytes to guess them from."""

    gpu: Gpu
    usd_per_hour: float
    text_bytes: float
    budget_usd: float | None = None
    budget_hours: float | None = None
    unique_tokens: float | None = None
    bytes_per_character: float = PORTUGUESE_BYTES_PER_CHARACTER
    different_words: float = math.inf
    num_gpus: int = 1
    mfu: float = 0.4
    # Share of the budget that is kept for evaluation, fine-tuning, chat and things going wrong.
    reserve_fraction: float = 0.1
    # Power of the machine round the card: processor and memory, modelled.
    host_power_w: float = 75.0
    max_epochs: float = 4.0
    sequence_length: int = 2048
    country: str = "BRA"
    law: str = "besiroglu"
    fitted: FittedLaw | None = None
    model: ModelSettings | None = None
    vocab_size: int | None = None

    @property
    def hours(self) -> float:
        """Hours of training that the budget buys, what is kept aside taken off."""
        if self.budget_hours is not None:
            hours = self.budget_hours
        else:
            assert self.budget_usd is not None
            hours = self.budget_usd / (self.usd_per_hour * self.num_gpus)
        return hours * (1 - self.reserve_fraction)

    @property
    def flops(self) -> float:
        """FLOPs of the training hours at the utilisation given."""
        return self.hours * 3600 * self.gpu.peak_tflops * 1e12 * self.mfu * self.num_gpus


@dataclass(frozen=True)
class Cost:
    """What a training takes. GPU energy is what its meter would show; the rest is modelled."""

    hours: float
    gpu_kwh: float
    host_kwh: float
    emissions_kg: float
    usd: float

    @property
    def kwh(self) -> float:
        """Both parts of the energy."""
        return self.gpu_kwh + self.host_kwh


@dataclass(frozen=True)
class Expected:
    """Loss of a model of the anchors' kind, and bits per byte; None where no law reaches."""

    loss: float | None
    low: float | None
    high: float | None
    bits_per_byte: float | None


@dataclass(frozen=True)
class Plan:
    """The answer."""

    question: Question
    model: ModelSettings
    vocab_size: int
    parameters: int
    tokens: float
    unique_tokens: float
    tokens_per_step: int
    num_steps: int
    peak_learning_rate: float
    cost: Cost
    expected: Expected
    law_loss: float
    limit: str
    gain_of_twice_the_money: float
    gain_of_twice_the_text: float
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def epochs(self) -> float:
        """Passes over the text."""
        return self.tokens / self.unique_tokens

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        asked = asdict(self.question)
        asked["model"] = self.question.model.model_dump() if self.question.model else None
        asked["fitted"] = asdict(self.question.fitted) if self.question.fitted else None
        return {
            **asdict(self),
            "question": asked,
            "model": self.model.model_dump(),
            "epochs": self.epochs,
            "kwh": self.cost.kwh,
        }


def bytes_per_token(
    vocab_size: int, bytes_per_character: float = PORTUGUESE_BYTES_PER_CHARACTER
) -> float:
    """Bytes of text behind one token of such a vocabulary, roughly; Portuguese by default.

    >>> round(bytes_per_token(32_000), 2), round(bytes_per_token(1024), 2)
    (4.6, 3.1)
    >>> round(bytes_per_token(32_000, bytes_per_character=2.7), 1)  # Bengali
    12.1
    """
    scale = bytes_per_character / PORTUGUESE_BYTES_PER_CHARACTER
    known = sorted(BYTES_PER_TOKEN.items())
    if vocab_size <= known[0][0]:
        return known[0][1] * scale
    for (small, low), (large, high) in pairwise(known):
        if vocab_size <= large:
            share = math.log(vocab_size / small) / math.log(large / small)
            return (low + share * (high - low)) * scale
    return known[-1][1] * scale


def vocabulary_for(
    text_bytes: float, bytes_per_character: float = PORTUGUESE_BYTES_PER_CHARACTER
) -> int:
    """Pieces that so much text can fill; text is compared by its characters."""
    alike = text_bytes * PORTUGUESE_BYTES_PER_CHARACTER / bytes_per_character
    return next(size for limit, size in VOCABULARY_BY_TEXT if alike <= limit)


def batch_and_rate(flops: float, sequence_length: int) -> tuple[int, float]:
    """Tokens per step and peak learning rate for so much compute (DeepSeek LLM, 2024, eq. 1).

    Tokens are rounded to whole sequences and a power of two of them.

    >>> batch_and_rate(3.95e18, 2048)
    (262144, 0.00148)
    """
    tokens, rate = 0.2920 * flops**0.3271, 0.3118 * flops**-0.1250
    rows = 2 ** max(0, round(math.log2(tokens / sequence_length)))
    return rows * sequence_length, float(f"{min(rate, 6e-3):.3g}")


def cost_of(question: Question, model: ModelSettings, vocab_size: int, tokens: float) -> Cost:
    """Hours, energy, carbon and money of training on so many tokens."""
    flops = tokens * flops_per_token(model, vocab_size, question.sequence_length)
    rate = question.gpu.peak_tflops * 1e12 * question.mfu * question.num_gpus
    hours = flops / rate / 3600
    gpu_kwh = hours * question.gpu.mean_power_w * question.num_gpus / 1000
    host_kwh = hours * question.host_power_w * question.num_gpus / 1000
    kg = (gpu_kwh + host_kwh) * carbon_kg_per_kwh(question.country)
    return Cost(hours, gpu_kwh, host_kwh, kg, hours * question.usd_per_hour * question.num_gpus)


@cache
def carbon_kg_per_kwh(country: str) -> float:
    """Mean carbon intensity of a country's grid: the table that the energy meter uses too."""
    spec = find_spec("codecarbon")
    assert spec is not None, "codecarbon is a dependency of this package"
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data/private_infra/global_energy_mix.json"
    row = json.loads(path.read_text(encoding="utf-8")).get(country)
    if row is None:
        what = f'no carbon intensity is known for "{country}"'
        raise UserError("country-unknown", "--country", what, "use an ISO 3166 code such as BRA")
    return float(row["carbon_intensity"]) / 1000


def make_plan(question: Question) -> Plan:
    """The best model and number of tokens for what the user has.

    Every shape gets the tokens that the budget buys it, at most `max_epochs` passes; the one of
    the lowest expected loss is taken.
    """
    _check(question)
    chosen = _law(question)
    vocab_size = _vocabulary(question)
    best = _best(question, chosen, vocab_size)
    if best is None:
        raise _too_small(question, vocab_size)
    loss, model, tokens = best
    unique = unique_tokens(question, vocab_size)
    compute = tokens * flops_per_token(model, vocab_size, question.sequence_length)
    tokens_per_step, rate = batch_and_rate(compute, question.sequence_length)
    while tokens < MIN_STEPS * tokens_per_step and tokens_per_step > question.sequence_length:
        tokens_per_step //= 2
    steps = max(1, round(tokens / tokens_per_step))
    money, text = _gains(question, chosen, vocab_size, loss)
    return Plan(
        question=question,
        model=model,
        vocab_size=vocab_size,
        parameters=num_parameters(model, vocab_size),
        tokens=float(steps * tokens_per_step),
        unique_tokens=unique,
        tokens_per_step=tokens_per_step,
        num_steps=steps,
        peak_learning_rate=rate,
        cost=cost_of(question, model, vocab_size, steps * tokens_per_step),
        expected=_expected(question, num_parameters(model, vocab_size), tokens, unique),
        law_loss=loss,
        limit="text" if text > money else "money",
        gain_of_twice_the_money=money,
        gain_of_twice_the_text=text,
        notes=_notes(question, chosen, vocab_size, tokens, loss),
    )


def expect(chosen: Law, parameters: float, tokens: float, unique: float) -> Expected:
    """Held-out loss with its 95 % interval, for Portuguese text with 32,000 pieces."""
    if tokens < MIN_TOKENS_OF_LAWS:
        return Expected(None, None, None, None)
    found = calibration(chosen)
    middle = chosen.loss_repeating(parameters, tokens, unique) + found.offset
    return Expected(
        loss=middle,
        low=middle - found.half_width,
        high=middle + found.half_width,
        bits_per_byte=middle / math.log(2) / bytes_per_token(32_000),
    )


def _law(question: Question) -> Law:
    return question.fitted.law if question.fitted else law(question.law)


def _expected(question: Question, parameters: float, tokens: float, unique: float) -> Expected:
    """The loss of the user's own text where pilots were run on it, else of the public runs."""
    fitted = question.fitted
    if fitted is None:
        return expect(law(question.law), parameters, tokens, unique)
    middle, half = fitted.predict(parameters, tokens, unique)
    bits = middle / math.log(2) / fitted.bytes_per_token
    return Expected(middle, max(0.0, middle - half), middle + half, bits)


def unique_tokens(question: Question, vocab_size: int) -> float:
    """Different tokens on hand: as counted, else from the size of the text."""
    each = bytes_per_token(vocab_size, question.bytes_per_character)
    return question.unique_tokens or question.text_bytes / each


def _vocabulary(question: Question) -> int:
    if question.vocab_size:
        return question.vocab_size
    size = vocabulary_for(question.text_bytes, question.bytes_per_character)
    # A text of few different words cannot fill it, and the tokenizer stage would refuse.
    while size > MIN_VOCABULARY and size > PIECES_PER_WORD * question.different_words:
        size //= 2
    return size


def _check(question: Question) -> None:
    if (question.budget_usd is None) == (question.budget_hours is None):
        what = "expected either --budget-usd or --hours"
        raise UserError("plan-budget", "ttl plan", what, "ttl plan --budget-usd 50 --text-mb 500")
    if question.budget_usd is not None and not question.usd_per_hour:
        what = f"{question.gpu.title} has no price"
        raise UserError("plan-price", "--gpu", what, "say it with --usd-per-hour, or give --hours")
    amounts = {"--budget-usd": question.budget_usd, "--hours": question.budget_hours}
    amounts |= {"--text-mb": question.text_bytes, "--gpus": question.num_gpus}
    amounts |= {"--tokens": question.unique_tokens, "--max-epochs": question.max_epochs}
    amounts |= {"--peak-tflops": question.gpu.peak_tflops}
    for name, value in amounts.items():
        if value is not None and not 0 < value < math.inf:
            what = f"expected more than 0, got {value}"
            raise UserError("plan-value", name, what, f"give {name} a positive number")
    if not 0 <= question.usd_per_hour < math.inf:
        what = f"expected 0 or more, got {question.usd_per_hour}"
        raise UserError("plan-value", "--usd-per-hour", what, "give the price of one card's hour")
    if not MIN_CONTEXT <= question.sequence_length <= MAX_CONTEXT:
        what = f"expected {MIN_CONTEXT} to {MAX_CONTEXT:,} tokens, got {question.sequence_length:,}"
        raise UserError("plan-value", "--sequence-length", what, "give 512, 1024 or 2048")
    if not 0 < question.mfu <= 1:
        what = f"expected a share above 0 and at most 1, got {question.mfu}"
        raise UserError("plan-value", "--mfu", what, "give 0.4, or what `ttl doctor` measured")


def _best(
    question: Question, chosen: Law, vocab_size: int
) -> tuple[float, ModelSettings, float] | None:
    """Loss, shape and tokens of the best choice; None where the budget is too small for any."""
    found = _choices(question, chosen, vocab_size)
    if not found:
        return None
    lowest = min(row[0] for row in found)
    near = [row for row in found if row[0] <= lowest + SAME_LOSS]
    loss, _, model, tokens = min(near, key=lambda row: row[1])
    return loss, model, tokens


def other_sizes(plan: Plan) -> list[tuple[int, float, float]]:
    """Every size that the same budget could train: parameters, tokens, the law's loss."""
    found = _choices(replace(plan.question, model=None), _law(plan.question), plan.vocab_size)
    return [
        (num_parameters(model, plan.vocab_size), tokens, loss) for loss, _, model, tokens in found
    ]


def _choices(
    question: Question, chosen: Law, vocab_size: int
) -> list[tuple[float, float, ModelSettings, float]]:
    """Loss, FLOPs, shape and tokens of each shape that fits the card and the budget."""
    unique = unique_tokens(question, vocab_size)
    found = []
    for model in (question.model,) if question.model else shapes():
        parameters = num_parameters(model, vocab_size)
        if not question.model and not _fits(question, model, parameters, vocab_size):
            continue
        flops = flops_per_token(model, vocab_size, question.sequence_length)
        tokens = min(question.flops / flops, unique * question.max_epochs)
        if tokens >= MIN_TOKENS_PER_PARAMETER * parameters or question.model:
            loss = chosen.loss_repeating(parameters, tokens, unique)
            found.append((loss, tokens * flops, model, tokens))
    return found


def _fits(question: Question, model: ModelSettings, parameters: int, vocab_size: int) -> bool:
    state_gb = parameters * BYTES_PER_PARAMETER / 1e9
    embedding_share = 2 * vocab_size * model.hidden_size / parameters
    fits = state_gb <= question.gpu.memory_gb * MEMORY_FOR_STATE
    # The smallest shape may always be taken: half of it is embedding whatever one does.
    return fits and (embedding_share <= MAX_EMBEDDING_SHARE or model == shapes()[0])


def _gains(question: Question, chosen: Law, vocab_size: int, loss: float) -> tuple[float, float]:
    """By how many nats the loss would fall with twice the money, and with twice the text."""
    double = 2 * (question.budget_usd or question.budget_hours or 0)
    key = "budget_usd" if question.budget_usd else "budget_hours"
    richer = replace(question, **{key: double})  # type: ignore[arg-type]
    tokens = question.unique_tokens
    fuller = replace(
        question,
        text_bytes=2 * question.text_bytes,
        unique_tokens=2 * tokens if tokens else None,
    )
    gains = []
    for other in (richer, fuller):
        found = _best(other, chosen, vocab_size)
        gains.append(max(0.0, loss - found[0]) if found else 0.0)
    return gains[0], gains[1]


def _too_small(question: Question, vocab_size: int) -> UserError:
    """What is short, budget or text, and by how much, for the smallest shape."""
    model = shapes()[0]
    needed = MIN_TOKENS_PER_PARAMETER * num_parameters(model, vocab_size)
    paid = question.flops / flops_per_token(model, vocab_size, question.sequence_length)
    read = unique_tokens(question, vocab_size) * question.max_epochs
    if paid < needed:
        what = f"{question.hours:.3g} hours on {question.gpu.title} pay for {paid:,.0f} tokens"
        fix = f"give {needed / paid:.1f} times the money or hours, or a faster --gpu"
    else:
        what = f"{question.text_bytes / 1e6:.3g} MB of text are {read:,.0f} tokens in all passes"
        fix = f"give {needed / read:.1f} times the text"
    what += f", and the smallest model needs {needed:,.0f}"
    return UserError("plan-too-small", "ttl plan", what, fix)


def _notes(
    question: Question, chosen: Law, vocab_size: int, tokens: float, loss: float
) -> tuple[str, ...]:
    unique = unique_tokens(question, vocab_size)
    notes = []
    if question.unique_tokens is None:
        each = bytes_per_token(vocab_size, question.bytes_per_character)
        notes.append(
            f"Tokens are estimated: {question.bytes_per_character:.2f} bytes per character, so "
            f"about {each:.1f} bytes per token; `ttl tokenizer` counts them. Filters take some."
        )
    if question.fitted is not None:
        notes.append(question.fitted.says(tokens))
    if tokens < MIN_TOKENS_OF_LAWS and question.fitted is None:
        notes.append(
            "Under 500 M tokens no published law predicts a loss: the shape is a rule of thumb."
        )
    if tokens >= 0.99 * unique * question.max_epochs:
        more = _best(replace(question, max_epochs=MANY_EPOCHS), chosen, vocab_size)
        gain = loss - more[0] if more else 0.0
        words = f"The text runs out before the money, after {question.max_epochs:g} passes."
        if question.max_epochs < MANY_EPOCHS and gain > SAME_LOSS:
            words += f" --max-epochs {MANY_EPOCHS:g} would use more of it"
            known = tokens >= MIN_TOKENS_OF_LAWS or question.fitted is not None
            words += f": {gain:.2f} nats lower." if known else "."
        notes.append(words)
    return tuple(notes)
