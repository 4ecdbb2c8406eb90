"""`ttl report`: of a recipe, of run folders beside each other, or live; `ttl evaluate`."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import AsJson, RunOptions, load, run_stages
from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)

MAX_NAME = 100  # characters of a page's name: file systems stop at 255 bytes


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
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File for the page of run folders; unset, named after them.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """`ttl report RECIPE | RUN...`."""
    if watch:
        _watch(paths, options, port)
    elif len(paths) == 1 and not paths[0].is_dir():
        run_stages(paths[0], options, ["report"])
    else:
        _compare(paths, out or _page_name(paths))


def evaluate_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A recipe. With --signal: finished runs, one a seed.", metavar="RECIPE | RUN..."
        ),
    ],
    options: RunOptions,
    signal: Annotated[
        bool, typer.Option("--signal", help="Which tasks carry signal, by the runs' own scores.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="File for the plots of --signal.", metavar="FILE")
    ] = None,
) -> None:
    """`ttl evaluate RECIPE`, `ttl evaluate --signal RUN...`."""
    if signal:
        _show_signal(paths, out or _page_name(paths, "signal"))
    elif len(paths) == 1:
        run_stages(paths[0], options, ["evaluate"])
    else:
        what = f"{len(paths)} paths were named"
        raise UserError("evaluate-one", "ttl evaluate", what, "name one recipe, or add --signal")


def status_command(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="RUN")],
    as_json: AsJson = False,
) -> None:
    """`ttl status RUN`."""
    from teenytinyllama.pipeline.run_status import read_status

    status = read_status(run)
    typer.echo(json.dumps(asdict(status), indent=2) if as_json else status.text())


def _page_name(run_dirs: list[Path], kind: str = "") -> Path:
    """A name of its own for each page: one comparison does not replace another."""
    names = [re.sub(r"[^\w.-]+", "-", path.resolve().name).strip(".-") for path in run_dirs]
    if len(set(names)) < len(names):  # runs of one name in several folders
        names = [re.sub(r"[^\w.-]+", "-", str(path.resolve())).strip(".-") for path in run_dirs]
    kind = kind or ("report" if len(names) == 1 else "comparison")
    name = "-".join([kind, *names])
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME - 9]}-{digest}"
    return Path(f"{name}.html")


def _watch(paths: list[Path], options: RunOptions, port: int) -> None:
    if len(paths) > 1:
        raise UserError("watch-one", "--watch", f"{len(paths)} runs were named", "name one")
    from teenytinyllama.stages.report.live_report import serve

    run_dir = options.run_dir or paths[0]
    serve(run_dir if run_dir.is_dir() else load(paths[0], options)[1], port=port)


def _compare(run_dirs: list[Path], out: Path) -> None:
    from teenytinyllama.stages.report.report_page import html_of

    _write(out, html_of(run_dirs))
    logger.info(f"{'Comparison' if len(run_dirs) > 1 else 'Report'} written to {out}")


def _show_signal(run_dirs: list[Path], out: Path) -> None:
    from teenytinyllama.stages.report import task_signal
    from teenytinyllama.stages.report.renderers import render

    signals = task_signal.measure(run_dirs)
    _write(out, render(task_signal.signal_page(signals, run_dirs)))
    typer.echo(task_signal.text_of(signals))
    logger.info(f"Plots written to {out}")


def _write(out: Path, html: str) -> None:
    from teenytinyllama.artifacts.manifest import write_atomically

    try:
        write_atomically(out, html)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError("report-unwritable", str(out), what, "choose another --out") from error
