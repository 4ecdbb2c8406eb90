"""FRONT DOOR `ttl`: wires folders to stages and puts the energy meter round them.

Exit codes: 0 done, 2 the user's input is wrong, 75 stopped but resumable by the same command,
1 a bug. `ttl --help` loads neither torch nor transformers: each command imports what it needs.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from teenytinyllama.cli import chat, classify, new, planning, publish, report, serve
from teenytinyllama.console import configure_logging
from teenytinyllama.errors import Interrupted, TtlError
from teenytinyllama.pipeline.registry import STAGES
from teenytinyllama.stages.interface import Stage

logger = logging.getLogger(__name__)


app = typer.Typer(
    name="ttl",
    help="Build a small language model of your own, in your own language, from scratch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", metavar="RECIPE")]
SetOption = Annotated[
    list[str],
    typer.Option("--set", help="Override one setting: stage.key=value (any number of times)."),
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the run; default runs/<recipe name>.")
]
Redo = Annotated[bool, typer.Option("--redo", help="Do the work again even if unchanged.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _walk(
    names: list[str] | None,
    recipe_path: Path,
    overrides: list[str],
    run_dir: Path | None,
    redo: bool,
) -> None:
    from teenytinyllama.pipeline.runner import PipelineRunner
    from teenytinyllama.settings.recipe import load_recipe

    recipe = load_recipe(recipe_path, overrides)
    folder = run_dir or Path("runs") / recipe.name
    PipelineRunner(recipe, folder, recipe_path).run_stages(names, redo=redo)
    if names is None:
        page = folder / "report" / "index.html"
        more = f"Report: {page}" if page.is_file() else "A [report] in the recipe makes its page."
        logger.info(f"The run is in {folder}. {more}")


@app.command("run", help="Walk all stages that the recipe names; what is unchanged is skipped.")
def run_command(
    recipe: RecipePath,
    overrides: SetOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    run_dir: RunDir = None,
    redo: Redo = False,
    debug: Debug = False,
) -> None:
    """`ttl run RECIPE`."""
    _walk(None, recipe, overrides, run_dir, redo)


def _add_stage(stage: Stage) -> None:
    def command(
        recipe: RecipePath,
        overrides: SetOption = [],  # noqa: B006
        run_dir: RunDir = None,
        redo: Redo = False,
        debug: Debug = False,
    ) -> None:
        _walk([stage.name], recipe, overrides, run_dir, redo)

    app.command(stage.name, help=f"Stage: {stage.title}.")(command)


def _add_corpus(stage: Stage) -> None:
    def command(
        recipe: RecipePath,
        overrides: SetOption = [],  # noqa: B006
        run_dir: RunDir = None,
        redo: Redo = False,
        explain: Annotated[
            str | None,
            typer.Option(metavar="ID", help="Show what each filter says of one document."),
        ] = None,
        calibrate: Annotated[
            Path | None,
            typer.Option(metavar="CLEAN.txt", help="Learn filter thresholds from clean text."),
        ] = None,
        debug: Debug = False,
    ) -> None:
        if explain is None and calibrate is None:
            _walk([stage.name], recipe, overrides, run_dir, redo)
            return
        from teenytinyllama.settings.recipe import load_recipe
        from teenytinyllama.stages.corpus import inspect_command

        loaded = load_recipe(recipe, overrides)
        folder = (run_dir or Path("runs") / loaded.name) / stage.name
        if explain is not None:
            typer.echo(inspect_command.explain(loaded, folder, explain))
        if calibrate is not None:
            typer.echo(inspect_command.calibrate(loaded, calibrate))

    app.command(stage.name, help=f"Stage: {stage.title}.")(command)


def _add_pretrain(stage: Stage) -> None:
    def command(
        recipe: RecipePath,
        overrides: SetOption = [],  # noqa: B006
        run_dir: RunDir = None,
        redo: Redo = False,
        start_from: Annotated[
            str | None,
            typer.Option(
                "--from", metavar="FOLDER", help="Start from a checkpoint or another Llama."
            ),
        ] = None,
        debug: Debug = False,
    ) -> None:
        start = [] if start_from is None else [f"pretrain.start_from={json.dumps(start_from)}"]
        _walk([stage.name], recipe, [*overrides, *start], run_dir, redo)

    app.command(stage.name, help=f"Stage: {stage.title}.")(command)


def _add_report(stage: Stage) -> None:
    report.add_report(app, lambda *asked: _walk([stage.name], *asked), stage.title)


def _add_tokenizer(stage: Stage) -> None:
    def command(
        recipe: RecipePath,
        overrides: SetOption = [],  # noqa: B006
        run_dir: RunDir = None,
        redo: Redo = False,
        trade_off: Annotated[
            bool,
            typer.Option("--trade-off", help="Show vocabulary sizes against the model's size."),
        ] = False,
        debug: Debug = False,
    ) -> None:
        if not trade_off:
            _walk([stage.name], recipe, overrides, run_dir, redo)
            return
        from teenytinyllama.settings.recipe import load_recipe
        from teenytinyllama.stages.tokenizer.vocab_size_sweep import show

        loaded = load_recipe(recipe, overrides)
        typer.echo(show(loaded, run_dir or Path("runs") / loaded.name))

    app.command(stage.name, help=f"Stage: {stage.title}.")(command)


_SPECIAL = {
    "corpus": _add_corpus,
    "tokenizer": _add_tokenizer,
    "pretrain": _add_pretrain,
    "report": _add_report,
}
for _stage in STAGES:
    _SPECIAL.get(_stage.name, _add_stage)(_stage)
chat.add_commands(app)
serve.add_commands(app)
publish.add_commands(app)
planning.add_commands(app)
new.add_commands(app)
classify.add_commands(app)


def _stop(number: int, frame: types.FrameType | None) -> NoReturn:
    raise Interrupted(signal.Signals(number).name)


def main() -> NoReturn:
    """Entry point of `ttl`: every error leaves as one line and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    debug = "--debug" in sys.argv
    configure_logging()
    try:
        app(standalone_mode=False)
        code = 0
    except typer.Exit as done:
        code = done.exit_code
    except typer.Abort:
        code = Interrupted.exit_code
    except KeyboardInterrupt:
        code = _fail(Interrupted("Ctrl-C"), debug=debug)
    except TtlError as error:
        code = _fail(error, debug=debug)
    except Exception as error:
        code = _fail_unknown(error, debug=debug)
    sys.exit(code)


def _fail(error: TtlError, *, debug: bool) -> int:
    logger.error(_traceback(error) if debug else str(error))
    return error.exit_code


def _fail_unknown(error: Exception, *, debug: bool) -> int:
    # Typer carries a click of its own: a usage error is known by what it can do.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        logger.error(f"error[usage] ttl - {format_message()} - fix: ttl --help")
        return 2
    if debug:
        logger.error(_traceback(error))
        return 1
    logger.error(
        f"error[bug] {type(error).__name__}: {error} - fix: run again with --debug and report it"
    )
    return 1


def _traceback(error: Exception) -> str:
    # Through `say`, which takes out secrets: a traceback is what people paste into an issue.
    return "".join(traceback.format_exception(error)).rstrip()
