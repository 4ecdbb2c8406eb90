"""Commands that make inputs: `ttl new` (a recipe), `ttl storybook` (invented text)."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teenytinyllama.cli.common import add_command
from teenytinyllama.cli.planning import DEFAULT_LAW, BudgetOptions
from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)


if TYPE_CHECKING:
    from teenytinyllama.languages import LanguageProfile

DEFAULT_TEXT = "text/**/*"


def new_command(
    language: Annotated[str, typer.Option("--language", help="ISO 639 code, such as pt.")],
    options: BudgetOptions,
    license_name: Annotated[
        str,
        typer.Option("--license", help="Licence of text and chats (SPDX), such as CC-BY-4.0."),
    ] = "unknown",
    chat: Annotated[
        str,
        typer.Option("--chat", help="Conversations: a file, folder or glob; adds the stage align."),
    ] = "",
    clean_sample: Annotated[
        Path | None,
        typer.Option(
            "--clean-sample",
            help="Clean text of the language to learn filters from; needed for a new language.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the run.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="The recipe to write.")] = None,
) -> None:
    """`ttl new`: a recipe from a plan."""
    from teenytinyllama.languages import letters_of
    from teenytinyllama.pipeline.recipe_check import find_problems
    from teenytinyllama.pipeline.registry import STAGES
    from teenytinyllama.planning import new_recipe
    from teenytinyllama.planning.plan_request import request_from_options
    from teenytinyllama.planning.planner import make_plan
    from teenytinyllama.progress import format_bytes, format_duration, format_money
    from teenytinyllama.settings.recipe import load_recipe

    new_recipe.check_language(language, has_sample=clean_sample is not None)
    if name:
        new_recipe.check_name(name)
    learned = _learn(clean_sample, language) if clean_sample else None
    letters = learned.letters if learned else letters_of(language)
    request = request_from_options(**asdict(options), law=DEFAULT_LAW)
    num_letters = max(request.num_letters, len(letters))
    plan = make_plan(replace(request, num_letters=num_letters))
    title = name or f"{language}-{plan.parameters / 1e6:.3g}m"
    path = out or Path(f"{title}.toml")
    new_recipe.check_paths(path, chat)
    source = options.text or DEFAULT_TEXT
    recipe = new_recipe.render_recipe(
        plan,
        name=title,
        language=language,
        text=source,
        license_name=license_name.strip() or "unknown",
        chat=chat,
        learned=learned,
    )
    new_recipe.write_recipe(path, recipe)
    logger.info(
        f"{path}: {plan.parameters / 1e6:.3g} M parameters, {plan.tokens / 1e6:,.3g} M tokens, "
        f"{format_duration(plan.cost.hours * 3600)}"
        + (f", {format_money(plan.cost.usd)}" if plan.request.usd_per_hour else "")
    )
    if plan.warning:
        logger.warning(plan.warning)
    if license_name == "unknown":
        logger.info(
            'The licence of the text is "unknown": it can be trained on, and not be published; '
            "--license CC-BY-4.0 (or what holds) says it."
        )
    if not options.text:
        logger.info(
            f"Put {format_bytes(new_recipe.needed_text_bytes(plan))} of clean text or more into "
            "text/ (or change corpus.sources)."
        )
    problems = find_problems(load_recipe(path), STAGES) if options.text else []
    for problem in problems:
        logger.warning(str(problem))
    logger.info(f"Next: {'correct that, then ' if problems else ''}ttl run {path}")


def _learn(path: Path, language: str) -> LanguageProfile:
    from teenytinyllama.stages.corpus.filters.calibration import learn_language

    found = learn_language(path, language)
    logger.info(found.summary)
    logger.info(
        f"{path}: thresholds, {len(found.stop_words)} stop words and {len(found.letters)} letters "
        f"learned from {found.num_documents:,} documents"
    )
    if found.known_fraction is None:
        logger.warning(
            f'py3langid does not know "{language}": texts of other languages will not be dropped; '
            "a GlotLID model can identify it (corpus.filters.language_model)"
        )
        return found
    taken = f'{found.known_fraction:.0%} of the sample for "{language}"'
    if found.rival:
        taken += f', {found.rival[1]:.0%} for "{found.rival[0]}"'
    if not found.is_identifiable:
        logger.warning(
            f"py3langid takes only {taken}: the language filter is left out (is the sample in that "
            "language?)"
        )
    elif found.rival:
        logger.warning(
            f"py3langid takes {taken}: its filter cannot tell the two apart well; a GlotLID model "
            "may (corpus.filters.language_model)"
        )
    return found


def storybook_command(
    language: Annotated[str, typer.Option("--language", help="ISO 639 code: pt, gl or bn.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    num_documents: Annotated[int, typer.Option("--documents", min=1, help="How many.")] = 4000,
    num_conversations: Annotated[int, typer.Option("--conversations", min=1)] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """`ttl storybook`: invented text and conversations as files, to try the whole way with."""
    from teenytinyllama.synthetic import dataset as synthetic

    try:
        synthetic.write_files(
            out,
            language=language,
            num_documents=num_documents,
            num_conversations=num_conversations,
            seed=seed,
        )
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
    add_command(app, "storybook", "Write invented text and chats as files.", storybook_command)
