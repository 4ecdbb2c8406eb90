"""`ttl clean RUN`: what a run keeps beside its results, and how to be rid of it."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import add_command
from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)


def clean_command(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="RUN")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove them without asking.")] = False,
) -> None:
    """`ttl clean RUN`."""
    from teenytinyllama.pipeline.previous_results import folder_bytes
    from teenytinyllama.pipeline.run_folder import RunFolder
    from teenytinyllama.progress import format_bytes

    if not (run / "run.json").is_file():
        raise UserError("run-missing", str(run), "is not a run folder (no run.json)", "ls runs/")
    folder = RunFolder(run)
    with folder.owned():
        found = folder.removable()
        sizes = [folder_bytes(path) for path, _ in found]
        for (path, what), size in zip(found, sizes, strict=True):
            typer.echo(f"{format_bytes(size):>10}  {path}  ({what})")
        if not found:
            logger.info("Nothing to remove.")
            return
        total = format_bytes(sum(sizes))
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove these {total}?")):
            logger.info(f"{total} kept; `ttl clean {run} --yes` removes them.")
            return
        for path, _ in found:
            if path.is_symlink():
                path.unlink()  # and leave what it leads to
            else:
                shutil.rmtree(path)
        logger.info(f"{total} removed.")


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    add_command(app, "clean", "List and remove what a run has set aside.", clean_command)
