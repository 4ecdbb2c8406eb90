"""Entry point of `ttl`: signals first, then the command, and how its errors leave.

Exit codes: 0 done, 2 the user's input is wrong, 75 stopped but resumable by the same command,
1 a bug. Little is imported before the signals are taken: the first tenths of a second are imports.
"""

from __future__ import annotations

import errno
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from teenytinyllama import signals
from teenytinyllama.process_group import ProcessGroup

if TYPE_CHECKING:
    from teenytinyllama.errors import TtlError

CTRL_C = 130  # what Typer returns for a KeyboardInterrupt
SECONDS_FOR_THE_LEADER = 5.0
# What only the path itself, which the user gave, is to blame for.
UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM)


def main() -> NoReturn:
    """Run the command that the arguments name; every error leaves as one line and a code."""
    signals.install(sys.argv[1:])
    code = _run(debug="--debug" in sys.argv)
    signals.finish(code)
    sys.exit(code)


def _run(*, debug: bool) -> int:
    import typer

    from teenytinyllama import openmp
    from teenytinyllama.cli.app import app
    from teenytinyllama.console import configure_logging
    from teenytinyllama.errors import Interrupted, TtlError

    configure_logging()
    openmp.watch()
    try:
        code = app(standalone_mode=False, prog_name="ttl")
    except TtlError as error:
        return _fail(error, debug=debug)
    except typer.Abort:
        return Interrupted.exit_code
    except Exception as error:
        return _fail_unknown(error, debug=debug)
    return _fail(Interrupted("Ctrl-C"), debug=debug) if code == CTRL_C else int(code or 0)


def _fail(error: TtlError, *, debug: bool) -> int:
    _let_the_leader_say_it()
    line = str(error)
    if "--redo" in sys.argv:  # which would start over
        line = line.replace("the same command again", "the same command without --redo")
    _log(_traceback(error) if debug else line)
    return error.exit_code


def _fail_unknown(error: Exception, *, debug: bool) -> int:
    # Typer carries a click of its own: a usage error is known by what it can do.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        context = getattr(error, "ctx", None)
        command = "ttl" if context is None else context.command_path
        _log(f"error[usage] {command} - {format_message()} - fix: {command} --help")
        return 2
    _let_the_leader_say_it()
    if isinstance(error, OSError) and error.errno in UNUSABLE and not debug:
        name = ascii(error.filename)[:200]
        what = f"cannot be used as a path ({error.strerror})"
        _log(f"error[path-unusable] {name} - {what} - fix: give another path, or its permission")
        return 2
    if debug:
        _log(_traceback(error))
        return 1
    _log(f"error[bug] {type(error).__name__}: {error} - fix: run again with --debug and report it")
    return 1


def _let_the_leader_say_it() -> None:
    """Of several processes that fail alike, one says so: its launcher then ends the others."""
    if not ProcessGroup().is_leader:
        time.sleep(SECONDS_FOR_THE_LEADER)


def _log(text: str) -> None:
    import logging

    logging.getLogger(__name__).error(text)


def _traceback(error: Exception) -> str:
    import traceback

    # Logged, not printed: the log takes out secrets, and people paste tracebacks into issues.
    return "".join(traceback.format_exception(error)).rstrip()
