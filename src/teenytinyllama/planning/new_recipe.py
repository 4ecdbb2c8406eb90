"""`ttl new`: a plan as a recipe that runs without edits, each number with its reason."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from teenytinyllama.errors import UserError
from teenytinyllama.languages import LanguageProfile, known_languages
from teenytinyllama.languages.language_codes import read_code
from teenytinyllama.licenses import UNKNOWN
from teenytinyllama.planning.plan_request import PlanRequest
from teenytinyllama.planning.planner import (
    EPOCHS_LIKE_NEW_TEXT,
    USUAL_WEIGHT_DECAY,
    Plan,
    bytes_per_token,
)
from teenytinyllama.progress import format_duration, format_energy, format_money
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.base import expand_path
from teenytinyllama.settings.recipe import Recipe, load_recipe, nearest_match

WIDTH_OF_VALUES = 34
AVERAGED_STEPS = 500
NUM_EVALUATIONS, NUM_SAMPLINGS = 20, 5
# Chat training teaches the form of a conversation, not facts: short rows, few epochs.
CHAT_LENGTH = 512
MAX_CHAT_RATE = 1e-3
USUAL_HELDOUT_FRACTION, MAX_HELDOUT_FRACTION, MIN_HELDOUT_BYTES = 0.02, 0.1, 20_000
COUNTING = ("repetition", "fineweb", "quality")


def check_language(language: str, *, has_sample: bool) -> None:
    """Raise UserError for what is not a language code, and for an unknown language."""
    if not (2 <= len(language) <= 3 and language.isascii() and language.islower()):
        what = f'expected two or three lowercase letters, got "{language}"'
        raise UserError(
            "language-code", "--language", what, "--language pt, or the ISO 639 code of yours"
        )
    read_code(language)
    if language not in known_languages() and not has_sample:
        what = f'no data for "{language}" (there is data for {", ".join(known_languages())})'
        fix = "--clean-sample FILE: 40 kB or more of clean text in it, to learn filters from"
        raise UserError("language-unknown", "--language", what, fix)


def check_name(name: str) -> None:
    """Raise UserError for what cannot be the name of a run and of its folder."""
    try:
        Recipe(name=name)
    except ValidationError as error:
        near = nearest_match(name, error.errors()[0]["ctx"]["pattern"]) or "my-model"
        what = f'expected letters, digits, ".", "_" and "-", got "{name}"'
        raise UserError("run-name", "--name", what, f"--name {near}") from error


def check_paths(path: Path, chat: str) -> None:
    """Raise UserError where the recipe exists already, or no file of conversations does."""
    if chat and not expand_path(chat):
        raise UserError("chat-missing", "--chat", f'no file at "{chat}"', "check the path")
    if path.exists():
        others = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
        fix = f"--out {next(other for other in others if not other.exists())}"
        raise UserError("recipe-exists", str(path), "exists already", fix)


def write_recipe(path: Path, recipe: str) -> None:
    """Write a recipe that loads. Raises UserError, and leaves no file, where it does not."""
    try:
        path.write_text(recipe, encoding="utf-8")
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        fix = "choose another --out"
        if isinstance(error, FileNotFoundError):
            fix = f"mkdir -p {shlex.quote(str(path.parent))}, or another --out"
        raise UserError("recipe-unwritable", str(path), what, fix) from error
    try:
        load_recipe(path)
    except UserError:
        path.unlink()
        raise


def needed_text_bytes(plan: Plan) -> float:
    """Bytes of clean text that the plan needs: read four times, or as often as it says."""
    epochs = max(plan.epochs, min(EPOCHS_LIKE_NEW_TEXT, plan.request.max_epochs))
    return plan.tokens / epochs * bytes_per_token(plan.vocab_size)


def render_recipe(
    plan: Plan,
    *,
    name: str,
    language: str,
    text: str,
    license_name: str = UNKNOWN,
    chat: str = "",
    learned: LanguageProfile | None = None,
) -> str:
    """The recipe in TOML. `text` and `chat`: paths of the user's text and conversations.

    Without conversations there is no section `align`, and the model only continues text.
    """
    parts = [
        _head(plan, name, language),
        _corpus(plan, text, license_name, learned),
        _tokenizer(plan, learned),
        ["[pack]  # documents laid end to end in random order; nothing is padded", ""],
        _pretrain(plan, learned),
        _evaluate(),
        _align(plan, chat, license_name) if chat else [],
        ["[quantize]", *_rows([('formats = ["q8_0"]', "8 bits per weight: half the size")]), ""],
        ["[report]", ""],
    ]
    return "\n".join(line for part in parts for line in part)


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Settings with a comment after each; a long setting has its comment above."""
    for setting, words in rows:
        if len(setting) <= WIDTH_OF_VALUES:
            yield f"{setting:{WIDTH_OF_VALUES}}  # {words}"
        else:
            yield f"# {words}:"
            yield setting


def _head(plan: Plan, name: str, language: str) -> list[str]:
    request, cost = plan.request, plan.cost
    price = request.usd_per_hour * request.num_gpus
    return [
        f"# Written by `ttl new` from a plan: {plan.parameters:,} parameters, {plan.tokens:,.0f} "
        "tokens,",
        f"# {format_duration(cost.hours * 3600)} on {request.num_gpus} x {request.gpu.title} at "
        f"{request.mfu:.0%} of its peak, {format_energy(cost.kwh)}{_money(plan)}. Limited by "
        f"{plan.limit}.",
        "# It runs as it is: `ttl run` with this file. `ttl settings` explains every setting.",
        *_rows(
            [
                (f"name = {_quoted(name)}", "the run's folder is runs/<name>"),
                (f"language = {_quoted(language)}", "ISO 639 code; its data: languages/"),
            ]
        ),
        "",
        "[energy]",
        *_rows(
            [
                (f"country = {_quoted(request.country)}", "its grid decides the carbon"),
                (f"usd_per_gpu_hour = {float(price)}", "price of the machine, for the report"),
            ]
        ),
        "",
    ]


def _money(plan: Plan) -> str:
    return f", {format_money(plan.cost.usd)}" if plan.request.usd_per_hour else ""


def _corpus(plan: Plan, text: str, license_name: str, learned: LanguageProfile | None) -> list[str]:
    words = '# Add the text\'s origin, as in { kind = ..., origin = "https://..." }, for the cards.'
    if license_name == UNKNOWN:
        words = (
            '# "unknown" trains, and `ttl publish` refuses it: give the licence (SPDX) of the text,'
        )
        words += (
            '\n# such as "CC-BY-4.0", and its origin = "https://..."; cards are written from them.'
        )
    lines = [
        "[corpus]",
        words,
        *_sources(plan.request, text, license_name),
        *_rows([(f"heldout_fraction = {_heldout(plan)}", "kept out of training, for evaluation")]),
    ]
    if learned:
        lines += ["", *_filters(learned)]
    return [*lines, ""]


def _sources(request: PlanRequest, text: str, license_name: str) -> list[str]:
    """One source; one for each kind of file where their texts are in fields of other names."""

    def source(path: str, key: str) -> str:
        field = "" if key == "text" else f", text_key = {_quoted(key)}"
        license_ = _quoted(license_name)
        return f'{{ kind = "files", path = {_quoted(path)}, license = {license_}{field} }}'

    if not request.text_keys or not user_path(text).is_dir():
        return [f"sources = [{source(text, request.text_key)}]"]
    keys = sorted(request.text_keys.items())
    folder = text.rstrip("/")
    each = [f"    {source(f'{folder}/**/*{ending}', key)}," for ending, key in keys]
    return ["sources = [", *each, "]"]


def _heldout(plan: Plan) -> float:
    """A fiftieth of the text, more of a small one: two documents say little of other text."""
    wanted = MIN_HELDOUT_BYTES / plan.request.text_bytes
    return float(f"{min(MAX_HELDOUT_FRACTION, max(USUAL_HELDOUT_FRACTION, wanted)):.1g}")


def _filters(learned: LanguageProfile) -> Iterator[str]:
    yield "[corpus.filters]"
    yield f"# Learned from {learned.num_documents} documents of clean text. `ttl corpus --explain`"
    yield "# shows the result of each rule for a document."
    families: tuple[str, ...] = ("address", "language", *COUNTING)
    if not learned.is_identifiable:
        yield "# No language filter: py3langid does not identify this language. A"
        yield '# GlotLID model does: language_model = "its path", and add "language" to this list.'
        families = ("address", *COUNTING)
    if len(families) < 2 + len(COUNTING):
        yield f"families = {_list(families)}"
    yield f"stop_words = {_list(learned.stop_words)}"
    numbers = ", ".join(f"{name} = {value:g}" for name, value in learned.thresholds.items())
    yield f"thresholds = {{ {numbers} }}"


def _tokenizer(plan: Plan, learned: LanguageProfile | None) -> list[str]:
    each = plan.unique_tokens / plan.vocab_size
    rows = [
        (f"vocab_size = {plan.vocab_size}", f"tokens; each occurs {each:,.0f} times on average")
    ]
    if learned:
        rows.append(
            (f"required_letters = {_quoted(learned.letters)}", "Letters of the clean sample")
        )
    return ["[tokenizer]", *_rows(rows), ""]


def _pretrain(plan: Plan, learned: LanguageProfile | None) -> list[str]:
    model, length = plan.model, plan.request.sequence_length
    warmup = max(1, min(2000, plan.num_steps // 50))
    rows = [
        (f"sequence_length = {length}", "context, in tokens"),
        (
            f"tokens_per_step = {plan.tokens_per_step}",
            f"{plan.tokens_per_step // length} rows: DeepSeek LLM 2024, eq. 1, from the compute",
        ),
        (f"num_steps = {plan.num_steps}", f"{plan.epochs:.2g} epochs"),
        (f"evaluate_every_steps = {max(1, plan.num_steps // NUM_EVALUATIONS)}", "20 times"),
        (f"sample_every_steps = {max(1, plan.num_steps // NUM_SAMPLINGS)}", "5 times"),
        (
            f"model = {{ hidden_size = {model.hidden_size}, intermediate_size = "
            f"{model.intermediate_size}, num_hidden_layers = {model.num_hidden_layers}, "
            f"num_attention_heads = {model.num_attention_heads}, "
            f"max_position_embeddings = {length} }}",
            f"{plan.parameters:,} parameters: "
            + (
                "the smallest there is"
                if plan.warning
                else "the lowest expected loss for the budget"
            ),
        ),
        (
            f'optimizer = {{ kind = "muon", peak_learning_rate = {plan.peak_learning_rate}, '
            f"muon_learning_rate = {plan.peak_learning_rate}{_decay(plan)} }}",
            "Peak learning rate from the compute, by the same equation",
        ),
        (
            f'schedule = {{ kind = "wsd", warmup_steps = {warmup} }}',
            "2 % warmup, then constant, then linear decay to 0",
        ),
    ]
    if plan.weight_decay != USUAL_WEIGHT_DECAY:
        rows += _many_epochs(plan)
    if learned and learned.openings:
        rows.append((f"sample_prompts = {_list(learned.openings)}", "Openings to continue"))
    return ["[pretrain]", *_rows(rows), ""]


def _many_epochs(plan: Plan) -> list[tuple[str, str]]:
    """What helps where a text is read many times (docs/little-text.md)."""
    steps = min(AVERAGED_STEPS, max(2, plan.num_steps // 10))
    return [
        ("shuffle_documents = true", "other rows in every epoch"),
        (
            f"averaging = {{ ema_decay = {1 - 1 / steps:.4g} }}",
            f"an average of about {steps} steps",
        ),
        ('checkpoints = { keep_weights = "best" }', "Of last step, average and best evaluation"),
    ]


def _decay(plan: Plan) -> str:
    """The weight decay of many epochs, where the usual one would let the model overfit."""
    decay = plan.weight_decay
    return "" if decay == USUAL_WEIGHT_DECAY else f", weight_decay = {decay}"


def _evaluate() -> list[str]:
    return [
        "[evaluate]",
        "# Besides bits per byte: choose the last word of held-out sentences from four.",
        'tasks = [{ name = "cloze", kind = "cloze", num_items = 400 }]',
        "",
    ]


def _align(plan: Plan, chat: str, license_name: str) -> list[str]:
    length = min(plan.request.sequence_length, CHAT_LENGTH)
    rate = min(plan.peak_learning_rate / 2, MAX_CHAT_RATE)
    return [
        "[align]",
        f'sources = [{{ kind = "files", path = {_quoted(chat)}, '
        f"license = {_quoted(license_name)} }}]",
        *_rows(
            [
                ("num_epochs = 3", "epochs (paper 4.3)"),
                (f"sequence_length = {length}", "tokens of a row, which holds several chats"),
                (f"tokens_per_step = {length * 4}", "4 rows"),
                (
                    f"optimizer = {{ peak_learning_rate = {rate:.3g} }}",
                    "Half the peak of pre-training, at most 1e-3",
                ),
                ('schedule = { kind = "linear", warmup_steps = 10 }', "Decay to 0"),
            ]
        ),
        "",
    ]


def _list(items: Sequence[str]) -> str:
    return "[" + ", ".join(_quoted(item) for item in items) + "]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
