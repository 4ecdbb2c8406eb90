"""FRONT DOOR, continued: from nothing to a recipe, in any language; and text to try it with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teenytinyllama.cli.common import add_command
from teenytinyllama.cli.planning import (
    Budget,
    Country,
    GpuCount,
    GpuName,
    Hours,
    Length,
    Peak,
    Price,
    TextMegabytes,
    TextPath,
    Utilisation,
    plan_for,
)
from teenytinyllama.errors import UserError
from teenytinyllama.languages import known_languages

logger = logging.getLogger(__name__)


if TYPE_CHECKING:
    from teenytinyllama.planning import LanguageNotes, Plan

DEFAULT_TEXT = "text/**/*"
CLEAN_DOCUMENTS = 200
CleanSample = Annotated[
    Path | None,
    typer.Option(help="Clean text of the language to learn filters from; needed without a folder."),
]
ChatPath = Annotated[
    str, typer.Option("--chat", help="Conversations: a file, folder or glob; adds the stage align.")
]


def new_command(  # noqa: PLR0913 (each is an option)
    language: Annotated[str, typer.Option("--language", help="ISO 639 code, such as pt.")],
    budget_usd: Budget = None,
    hours: Hours = None,
    gpu: GpuName = "a100-40gb",
    num_gpus: GpuCount = 1,
    usd_per_hour: Price = None,
    text_mb: TextMegabytes = None,
    text: TextPath = "",
    chat: ChatPath = "",
    clean_sample: CleanSample = None,
    mfu: Utilisation = 0.4,
    peak_tflops: Peak = None,
    sequence_length: Length = None,
    country: Country = "BRA",
    name: Annotated[str, typer.Option("--name", help="Name of the run.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="The recipe to write.")] = None,
) -> None:
    """`ttl new`: a recipe from a plan."""
    _check(language, clean_sample, chat)
    found = plan_for(
        budget_usd=budget_usd,
        hours=hours,
        gpu=gpu,
        num_gpus=num_gpus,
        usd_per_hour=usd_per_hour,
        text_mb=text_mb,
        text=text,
        mfu=mfu,
        peak_tflops=peak_tflops,
        sequence_length=sequence_length,
        country=country,
        law="besiroglu",
    )
    from teenytinyllama.planning import recipe_text

    title = name or f"{language}-{found.parameters / 1e6:.3g}m"
    path = out or Path(f"{title}.toml")
    if path.exists():
        what = "is there already"
        raise UserError("recipe-exists", str(path), what, "choose another --out or --name")
    learnt = _learn(clean_sample, language) if clean_sample else None
    source = text or DEFAULT_TEXT
    written = recipe_text(
        found, name=title, language=language, text=source, chat=chat, learnt=learnt
    )
    _write(path, written)
    logger.info(
        f"{path}: {found.parameters / 1e6:.3g} M parameters, {found.tokens / 1e6:,.3g} M tokens, "
        f"{found.cost.hours:.3g} h, ${found.cost.usd:,.2f}"
    )
    _say_next(found, path, text)


def _check(language: str, clean_sample: Path | None, chat: str) -> None:
    """Raise UserError for a language that nothing is known of, and for paths without a file."""
    from teenytinyllama.settings.base import expand_path

    if not (2 <= len(language) <= 3 and language.isascii() and language.islower()):
        what = f'expected two or three small letters, got "{language}"'
        raise UserError("language-code", "--language", what, "give its ISO 639 code, such as pt")
    if language not in known_languages() and clean_sample is None:
        what = f'nothing is known of "{language}" (known: {", ".join(known_languages())})'
        fix = "--clean-sample FILE: some clean text of it, 40 kB or more, to learn from"
        raise UserError("language-unknown", "--language", what, fix)
    if chat and not expand_path(chat):
        raise UserError("chat-missing", "--chat", f'no file at "{chat}"', "check the path")


def _learn(path: Path, language: str) -> LanguageNotes:
    from teenytinyllama.planning import LanguageNotes
    from teenytinyllama.stages.corpus.filters.learned_thresholds import learn

    found = learn(path, language)
    logger.info(
        f"{path}: thresholds, {len(found.stop_words)} stop words and {len(found.letters)} letters "
        f"learnt from {found.num_documents:,} documents"
    )
    if found.known_fraction is None:
        logger.info(
            f'py3langid does not know "{language}": texts of other languages will not be dropped; '
            "a GlotLID model can tell (corpus.filters.language_model)"
        )
    elif not found.can_be_told:
        logger.info(
            f'py3langid takes only {found.known_fraction:.0%} of the sample for "{language}": the '
            "language filter is left out (is the sample in that language?)"
        )
    return LanguageNotes(
        num_documents=found.num_documents,
        thresholds=found.thresholds,
        stop_words=found.stop_words,
        letters=found.letters,
        openings=found.openings,
        can_be_told=found.can_be_told,
    )


def _write(path: Path, recipe: str) -> None:
    from teenytinyllama.settings.recipe import load_recipe

    try:
        path.write_text(recipe, encoding="utf-8")
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError("recipe-unwritable", str(path), what, "choose another --out") from error
    try:
        load_recipe(path)
    except UserError:
        path.unlink()
        raise


def _say_next(found: Plan, path: Path, text: str) -> None:
    if not text:
        from teenytinyllama.planning.planner import bytes_per_token

        each = bytes_per_token(found.vocab_size)
        need = found.tokens / found.question.max_epochs * each / 1e6
        logger.info(
            f"Put at least {need:,.0f} MB of clean text into text/ (or change corpus.sources)."
        )
    logger.info(f"Next: ttl run {path}")


def storybook_command(
    language: Annotated[str, typer.Option("--language", help="ISO 639 code: pt, gl or bn.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    num_documents: Annotated[int, typer.Option("--documents", min=1, help="How many.")] = 4000,
    num_conversations: Annotated[int, typer.Option("--conversations", min=1)] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """`ttl storybook`: invented text and conversations as files, to try the whole way with."""
    from teenytinyllama import synthetic

    made = synthetic.documents(seed=seed, num_documents=num_documents, language=language)
    chats = synthetic.conversations(
        seed=seed, num_conversations=num_conversations, split="train", language=language
    )
    documents = [{"id": one.id, "text": one.text, "license": synthetic.LICENSE} for one in made]
    rows: dict[str, list[dict[str, Any]]] = {
        "text": documents,
        "chat": [{"messages": one["messages"]} for one in chats],
    }
    try:
        for name, items in rows.items():
            folder = out / name
            folder.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
            (folder / "storybook.jsonl").write_text("".join(lines), encoding="utf-8")
        clean = "\n\n".join(str(one["text"]) for one in documents[:CLEAN_DOCUMENTS])
        (out / "clean.txt").write_text(clean, encoding="utf-8")
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError("storybook-unwritable", str(out), what, "choose another --out") from error
    logger.info(
        f"{out / 'text'}: {num_documents:,} texts; {out / 'chat'}: {num_conversations:,} chats"
    )
    logger.info(f"{out / 'clean.txt'}: the first of the texts, as a clean sample")


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    add_command(app, "new", "Write a recipe from a plan, for any language.", new_command)
    add_command(
        app,
        "storybook",
        "Write invented text and chats as files, to try things with.",
        storybook_command,
    )
