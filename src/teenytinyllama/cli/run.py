"""`ttl run` and a command per stage."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import RecipePath, RunOptions, add_command, load, run_stages
from teenytinyllama.cli.report import evaluate_command, report_command, status_command
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.pipeline.registry import STAGES

logger = logging.getLogger(__name__)


def run_command(recipe: RecipePath, options: RunOptions) -> None:
    """`ttl run RECIPE`."""
    run_dir = run_stages(recipe, options)
    page = run_dir / "report" / "index.html"
    more = f"Report: {page}" if page.is_file() else "A [report] in the recipe makes its page."
    logger.info(f"The run is in {run_dir}. {more}")


def quickstart_command(options: RunOptions) -> None:
    """`ttl quickstart`: the shipped recipe of that name, and what to do next."""
    run_command(Path("quickstart"), options)
    run_dir = options.run_dir or Path("runs") / "quickstart"
    ttl = sys.argv[0] if Path(sys.argv[0]).name == "ttl" else "ttl"  # else: python -m
    logger.info(f"Talk to your model: {shlex.join([ttl, 'chat', str(run_dir)])}")


def recipes_command(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Nothing: the list. `show NAME`: its text.", metavar="[show NAME]"),
    ] = None,
) -> None:
    """`ttl recipes [show NAME]`."""
    from teenytinyllama.settings.recipe import shipped_recipes

    known = shipped_recipes()
    if not words:
        for name, path in known.items():
            with path.open(encoding="utf-8") as file:
                about = file.readline().removeprefix("#").strip()
            typer.echo(f"{name:<18}{about}")
        typer.echo("\nttl run NAME runs one; ttl recipes show NAME > mine.toml makes it yours")
        return
    if words[0] != "show" or len(words) != 2:
        where = f"ttl recipes {' '.join(words)}"
        raise UserError("recipes-usage", where, "expected show NAME", "ttl recipes show quickstart")
    if words[1] not in known:
        what = f'no recipe has the name "{words[1]}"'
        raise UserError("recipe-unknown", "ttl recipes", what, did_you_mean(words[1], known))
    typer.echo(known[words[1]].read_text(encoding="utf-8"), nl=False)


def corpus_command(
    recipe: RecipePath,
    options: RunOptions,
    explain: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Show what each filter says of one document."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="CLEAN.txt", help="Learn filter thresholds from clean text."),
    ] = None,
) -> None:
    """`ttl corpus RECIPE`."""
    if explain is None and calibrate is None:
        run_stages(recipe, options, ["corpus"])
        return
    from teenytinyllama.stages.corpus import inspection

    loaded, run_dir = load(recipe, options)
    if explain is not None:
        typer.echo(inspection.explain(loaded, run_dir / "corpus", explain))
    if calibrate is not None:
        typer.echo(inspection.calibrate(loaded, calibrate))


def tokenizer_command(
    recipe: RecipePath,
    options: RunOptions,
    vocab_sizes: Annotated[
        bool, typer.Option("--vocab-sizes", help="Compare vocabulary sizes for corpus and model.")
    ] = False,
) -> None:
    """`ttl tokenizer RECIPE`."""
    if not vocab_sizes:
        run_stages(recipe, options, ["tokenizer"])
        return
    from teenytinyllama.stages.tokenizer.vocab_size_sweep import compare_vocab_sizes

    typer.echo(compare_vocab_sizes(*load(recipe, options)))


def pretrain_command(
    recipe: RecipePath,
    options: RunOptions,
    start_from: Annotated[
        str | None,
        typer.Option("--from", metavar="FOLDER", help="Start from a checkpoint or another Llama."),
    ] = None,
) -> None:
    """`ttl pretrain RECIPE`."""
    if start_from is not None:
        start = f"pretrain.start_from={json.dumps(start_from)}"
        options = replace(options, overrides=[*options.overrides, start])
    run_stages(recipe, options, ["pretrain"])


def _plain_command(name: str) -> Callable[..., None]:
    def command(recipe: RecipePath, options: RunOptions) -> None:
        run_stages(recipe, options, [name])

    return command


# Stages whose command can do more than run the stage.
WITH_OPTIONS: dict[str, Callable[..., None]] = {
    "corpus": corpus_command,
    "tokenizer": tokenizer_command,
    "pretrain": pretrain_command,
    "evaluate": evaluate_command,
    "report": report_command,
}


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    add_command(app, "run", "Run every stage in the recipe, skipping unchanged ones.", run_command)
    title = "Every stage on a small invented world, in minutes, without a network."
    add_command(app, "quickstart", title, quickstart_command)
    add_command(app, "status", "What a run has done, is doing and has cost.", status_command)
    add_command(app, "recipes", "The recipes that come with ttl.", recipes_command)
    for stage in STAGES:
        command = WITH_OPTIONS.get(stage.name) or _plain_command(stage.name)
        add_command(app, stage.name, f"Stage: {stage.title}.", command)
