"""`ttl run` and a command per stage."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import RecipePath, RunOptions, add_command, load, run_stages
from teenytinyllama.cli.report import report_command
from teenytinyllama.pipeline.registry import STAGES

logger = logging.getLogger(__name__)


def run_command(recipe: RecipePath, options: RunOptions) -> None:
    """`ttl run RECIPE`."""
    run_dir = run_stages(recipe, options)
    page = run_dir / "report" / "index.html"
    more = f"Report: {page}" if page.is_file() else "A [report] in the recipe makes its page."
    logger.info(f"The run is in {run_dir}. {more}")


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
    "report": report_command,
}


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    add_command(app, "run", "Run every stage in the recipe, skipping unchanged ones.", run_command)
    for stage in STAGES:
        command = WITH_OPTIONS.get(stage.name) or _plain_command(stage.name)
        add_command(app, stage.name, f"Stage: {stage.title}.", command)
