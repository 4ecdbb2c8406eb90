"""A plan as a recipe that loads and runs without edits, each number with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from teenytinyllama.planning.planner import Plan

WIDTH_OF_VALUES = 34
NUM_EVALUATIONS, NUM_SAMPLINGS = 20, 5
# A chat model learns the manner of a conversation, not facts: short rows, few passes.
CHAT_LENGTH = 512
MAX_CHAT_RATE = 1e-3
COUNTING = ("repetition", "fineweb", "quality")


@dataclass(frozen=True)
class LanguageNotes:
    """What was learnt of the language from a clean sample, in the words of a recipe."""

    num_documents: int
    thresholds: dict[str, float] = field(default_factory=dict)
    stop_words: tuple[str, ...] = ()
    letters: str = ""
    openings: tuple[str, ...] = ()
    can_be_told: bool = True
    """Whether the language filter can be used."""


def recipe_text(
    plan: Plan,
    *,
    name: str,
    language: str,
    text: str,
    chat: str = "",
    learnt: LanguageNotes | None = None,
) -> str:
    """The recipe in TOML. `text` and `chat`: paths of the user's text and conversations.

    Without conversations there is no section `align`, and the model goes on with text.
    """
    parts = [
        _head(plan, name, language),
        _corpus(text, learnt),
        _tokenizer(plan, learnt),
        ["[pack]  # documents laid end to end in random order; nothing is padded", ""],
        _pretrain(plan, learnt),
        _evaluate(),
        _align(plan, chat) if chat else [],
        ["[quantize]", *_rows([('formats = ["q8_0"]', "8 bits a weight: half of the size")]), ""],
        ["[report]", ""],
    ]
    return "\n".join(line for part in parts for line in part)


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Settings with what is said of them behind; a long setting has it above."""
    for setting, words in rows:
        if len(setting) <= WIDTH_OF_VALUES:
            yield f"{setting:{WIDTH_OF_VALUES}}  # {words}"
        else:
            yield f"# {words}:"
            yield setting


def _head(plan: Plan, name: str, language: str) -> list[str]:
    asked, cost = plan.question, plan.cost
    price = asked.usd_per_hour * asked.num_gpus
    return [
        f"# Written by `ttl new` from a plan: {plan.parameters:,} parameters, {plan.tokens:,.0f} "
        "tokens,",
        f"# {cost.hours:.3g} h on {asked.num_gpus} x {asked.gpu.title} at {asked.mfu:.0%} of its "
        f"peak, {cost.kwh:.3g} kWh, ${cost.usd:,.2f}. Limited by {plan.limit}.",
        "# It runs as it is: `ttl run` with this file. `ttl settings` explains every setting.",
        *_rows(
            [
                (f"name = {_quoted(name)}", "the run's folder is runs/<name>"),
                (f"language = {_quoted(language)}", "ISO 639; what is known of it: languages/"),
            ]
        ),
        "",
        "[energy]",
        *_rows(
            [
                (f"country = {_quoted(asked.country)}", "whose grid: decides the carbon"),
                (f"usd_per_gpu_hour = {float(price)}", "price of the machine, for the report"),
            ]
        ),
        "",
    ]


def _corpus(text: str, learnt: LanguageNotes | None) -> list[str]:
    lines = [
        "[corpus]",
        "# Give each source its licence (SPDX) and origin, as in { kind = ..., license =",
        '# "CC-BY-4.0", origin = "https://..." }: the cards are written from them.',
        f'sources = [{{ kind = "files", path = {_quoted(text)} }}]',
        *_rows([("heldout_fraction = 0.02", "kept out of training, to be scored on")]),
    ]
    if learnt:
        lines += ["", *_filters(learnt)]
    return [*lines, ""]


def _filters(learnt: LanguageNotes) -> Iterator[str]:
    yield "[corpus.filters]"
    yield f"# Learnt from {learnt.num_documents} documents of clean text: `ttl corpus --explain ID`"
    yield "# shows what each rule says of a document."
    if not learnt.can_be_told:
        yield "# Without the family language: py3langid cannot tell this language from others. A"
        yield '# GlotLID model can: language_model = "its path", and "language" in this list.'
        yield f"families = {_list(('address', *COUNTING))}"
    yield f"stop_words = {_list(learnt.stop_words)}"
    numbers = ", ".join(f"{name} = {value:g}" for name, value in learnt.thresholds.items())
    yield f"thresholds = {{ {numbers} }}"


def _tokenizer(plan: Plan, learnt: LanguageNotes | None) -> list[str]:
    each = plan.unique_tokens / plan.vocab_size
    rows = [
        (f"vocab_size = {plan.vocab_size}", f"pieces; each is seen {each:,.0f} times on average")
    ]
    if learnt:
        rows.append(
            (f"required_letters = {_quoted(learnt.letters)}", "Letters of the clean sample")
        )
    return ["[tokenizer]", *_rows(rows), ""]


def _pretrain(plan: Plan, learnt: LanguageNotes | None) -> list[str]:
    model, length = plan.model, plan.question.sequence_length
    warmup = max(1, min(2000, plan.num_steps // 50))
    rows = [
        (f"sequence_length = {length}", "tokens the model sees at once"),
        (
            f"tokens_per_step = {plan.tokens_per_step}",
            f"{plan.tokens_per_step // length} rows: DeepSeek LLM 2024, eq. 1, from the compute",
        ),
        (f"num_steps = {plan.num_steps}", f"{plan.epochs:.2g} passes over the text"),
        (f"evaluate_every_steps = {max(1, plan.num_steps // NUM_EVALUATIONS)}", "20 points"),
        (f"sample_every_steps = {max(1, plan.num_steps // NUM_SAMPLINGS)}", "5 looks at its text"),
        (
            f"model = {{ hidden_size = {model.hidden_size}, intermediate_size = "
            f"{model.intermediate_size}, num_hidden_layers = {model.num_hidden_layers}, "
            f"num_attention_heads = {model.num_attention_heads}, "
            f"max_position_embeddings = {length} }}",
            f"{plan.parameters:,} parameters: the lowest expected loss for the budget",
        ),
        (
            f'optimizer = {{ kind = "muon", peak_learning_rate = {plan.peak_learning_rate}, '
            f"muon_learning_rate = {plan.peak_learning_rate} }}",
            "Peak rate from the compute, by the same equation",
        ),
        (
            f'schedule = {{ kind = "wsd", warmup_steps = {warmup} }}',
            "2 % of the steps to warm up, then steady, then falling to 0",
        ),
    ]
    if learnt and learnt.openings:
        rows.append((f"sample_prompts = {_list(learnt.openings)}", "Openings to continue"))
    return ["[pretrain]", *_rows(rows), ""]


def _evaluate() -> list[str]:
    return [
        "[evaluate]",
        "# Beside bits per byte: the last word of held-out sentences, among four.",
        'tasks = [{ name = "cloze", kind = "cloze", num_items = 400 }]',
        "",
    ]


def _align(plan: Plan, chat: str) -> list[str]:
    length = min(plan.question.sequence_length, CHAT_LENGTH)
    rate = min(plan.peak_learning_rate / 2, MAX_CHAT_RATE)
    return [
        "[align]",
        f'sources = [{{ kind = "files", path = {_quoted(chat)} }}]',
        *_rows(
            [
                ("num_epochs = 3", "passes over the conversations (paper 4.3)"),
                (f"sequence_length = {length}", "tokens of a row; several chats share one"),
                (f"tokens_per_step = {length * 4}", "4 rows"),
                (
                    f"optimizer = {{ peak_learning_rate = {rate:.3g} }}",
                    "Half of the pre-training's peak, at most 1e-3",
                ),
                ('schedule = { kind = "linear", warmup_steps = 10 }', "Falls to 0"),
            ]
        ),
        "",
    ]


def _list(items: Sequence[str]) -> str:
    return "[" + ", ".join(_quoted(item) for item in items) + "]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
