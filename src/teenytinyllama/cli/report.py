"""FRONT DOOR, continued: `ttl report`, of a recipe, of run folders beside each other, or live."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.errors import UserError

logger = logging.getLogger(__name__)


Walk = Callable[[Path, list[str], Path | None, bool], None]


def add_report(app: typer.Typer, walk: Walk, title: str) -> None:
    """Hang `ttl report` on the command line; `walk` runs the stage for a recipe."""

    def command(
        paths: Annotated[
            list[Path],
            typer.Argument(
                help="A recipe: its run's report. Run folders: these, beside each other.",
                metavar="RECIPE | RUN...",
            ),
        ],
        overrides: Annotated[
            list[str], typer.Option("--set", help="Override one setting: stage.key=value.")
        ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
        run_dir: Annotated[
            Path | None,
            typer.Option("--run-dir", help="Folder of the run; default runs/<recipe name>."),
        ] = None,
        redo: Annotated[bool, typer.Option("--redo", help="Do the work again.")] = False,
        watch: Annotated[
            bool, typer.Option("--watch", help="Serve the page here, live, while it trains.")
        ] = False,
        port: Annotated[int, typer.Option("--port", help="Port of --watch; 0: any.")] = 8808,
        out: Annotated[
            Path, typer.Option("--out", help="File for the page of run folders.")
        ] = Path("report.html"),
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of an error.")
        ] = False,
    ) -> None:
        if watch:
            _watch(paths, overrides, run_dir, port)
        elif len(paths) == 1 and not paths[0].is_dir():
            walk(paths[0], overrides, run_dir, redo)
        else:
            _write(paths, out)

    app.command("report", help=f"Stage: {title}.")(command)


def _watch(paths: list[Path], overrides: list[str], run_dir: Path | None, port: int) -> None:
    if len(paths) > 1:
        raise UserError("watch-one", "--watch", f"{len(paths)} runs were named", "name one")
    from teenytinyllama.settings.recipe import load_recipe
    from teenytinyllama.stages.report.live_report import serve

    folder = run_dir or paths[0]
    if not folder.is_dir():
        folder = Path("runs") / load_recipe(paths[0], overrides).name
    serve(folder, port=port)


def _write(run_dirs: list[Path], out: Path) -> None:
    from teenytinyllama.artifacts.manifest import write_atomically
    from teenytinyllama.stages.report.report_page import html_of

    for folder in run_dirs:
        if not folder.is_dir():
            what = "is not a folder of a run"
            raise UserError("run-missing", str(folder), what, "name run folders, or one recipe")
    try:
        write_atomically(out, html_of(run_dirs))
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError("report-unwritable", str(out), what, "choose another --out") from error
    logger.info(f"The page is {out}.")
