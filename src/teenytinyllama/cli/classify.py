"""FRONT DOOR, continued: `ttl classify`, which puts a finished classifier to work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    Path, typer.Argument(help="A run, or the folder of a classifier.", metavar="MODEL")
]
Files = Annotated[
    list[Path], typer.Argument(help="Files to label: .txt, .csv, .jsonl ...", metavar="FILE...")
]
TaskOption = Annotated[
    str, typer.Option("--task", help="Which classifier, where the run has several.")
]
Columns = Annotated[
    list[str],
    typer.Option("--column", help="Column of the text; twice for a pair. Default: as trained."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def classify_command(
    model: Model,
    files: Files,
    task: TaskOption = "",
    columns: Columns = [],  # noqa: B006 (typer reads the default, nobody changes it)
    debug: Debug = False,
) -> None:
    """`ttl classify MODEL FILE...`: JSON lines on standard output."""
    from teenytinyllama.stages.finetune import classify

    classify.run(model=model, files=files, task=task, columns=columns)


def add_commands(app: typer.Typer) -> None:
    """Hang this command on the command line."""
    app.command("classify", help="Label the texts of files with a classifier.")(classify_command)
