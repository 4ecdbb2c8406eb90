"""The command line `ttl`: its commands, and how errors leave it.

Exit codes: 0 done, 2 the user's input is wrong, 75 stopped but resumable by the same command,
1 a bug. `ttl --help` loads neither torch nor transformers: each command imports what it needs.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
import types
from typing import Annotated, NoReturn

import typer

from teenytinyllama import __version__
from teenytinyllama.cli import inference, new, planning, publish, run
from teenytinyllama.cli.common import add_command
from teenytinyllama.console import configure_logging
from teenytinyllama.errors import Interrupted, TtlError

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="ttl",
    help="Build a small language model of your own, in your own language, from scratch.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """`ttl` alone shows the help."""
    if version:
        typer.echo(f"ttl {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def settings_command(
    stage: Annotated[str, typer.Argument(help="Only this section.", metavar="[STAGE]")] = "",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The whole page docs/settings.md.")
    ] = False,
    commands: Annotated[
        bool, typer.Option("--commands", help="The whole page docs/cli.md.")
    ] = False,
) -> None:
    """`ttl settings [STAGE]`."""
    from teenytinyllama.cli import reference

    if markdown:
        text = reference.settings_markdown()
    elif commands:
        text = reference.commands_markdown(app)
    else:
        text = reference.settings_text(stage)
    typer.echo(text, nl=False)


run.add_commands(app)
inference.add_commands(app)
publish.add_commands(app)
planning.add_commands(app)
add_command(app, "settings", "Every setting, its default and meaning.", settings_command)
new.add_commands(app)


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
    # Logged, not printed: the log takes out secrets, and people paste tracebacks into issues.
    return "".join(traceback.format_exception(error)).rstrip()
