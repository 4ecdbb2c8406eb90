"""`ttl report`: of a recipe, of run folders beside each other, or live."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import RunOptions, load, run_stages
from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)


def report_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A recipe: its run's report. Run folders: these, beside each other.",
            metavar="RECIPE | RUN...",
        ),
    ],
    options: RunOptions,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page here, live, while it trains.")
    ] = False,
    port: Annotated[int, typer.Option("--port", help="Port of --watch; 0: any.")] = 8808,
    out: Annotated[Path, typer.Option("--out", help="File for the page of run folders.")] = Path(
        "report.html"
    ),
) -> None:
    """`ttl report RECIPE | RUN...`."""
    if watch:
        _watch(paths, options, port)
    elif len(paths) == 1 and not paths[0].is_dir():
        run_stages(paths[0], options, ["report"])
    else:
        _compare(paths, out)


def _watch(paths: list[Path], options: RunOptions, port: int) -> None:
    if len(paths) > 1:
        raise UserError("watch-one", "--watch", f"{len(paths)} runs were named", "name one")
    from teenytinyllama.stages.report.live_report import serve

    run_dir = options.run_dir or paths[0]
    serve(run_dir if run_dir.is_dir() else load(paths[0], options)[1], port=port)


def _compare(run_dirs: list[Path], out: Path) -> None:
    from teenytinyllama.artifacts.manifest import write_atomically
    from teenytinyllama.stages.report.report_page import html_of

    try:
        write_atomically(out, html_of(run_dirs))
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError("report-unwritable", str(out), what, "choose another --out") from error
    logger.info(f"Comparison written to {out}")
