"""Log lines on standard error: through rich on a terminal, plain lines elsewhere.

Standard output is for what scripts read. Logs are kept and shared: secrets are removed from every
line, and control characters are escaped.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 control characters, and the marks that change the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


def harmless(text: str) -> str:
    r"""The text with control characters escaped, except line ends and tabs.

    >>> harmless("a\x1b[2Jb\x07")
    'a\\x1b[2Jb\\x07'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


@cache
def terminal() -> Console:
    """The terminal of standard error, which log lines and progress bars share."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def unheard() -> Iterator[None]:
    """Around writing to standard error: once its terminal or its pipe's reader is gone, silence.

    A closed window, a lost connection or a `tee` that Ctrl-C ended must not end the work, nor take
    the place of the exit code by which a wrapper knows that it can be resumed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def aligned(rows: Sequence[Sequence[str]], *, right: bool = True) -> list[str]:
    """A table's rows as lines, each column as wide as its widest cell.

    >>> aligned([["a", "100"], ["bc", "7"]])
    [' a  100', 'bc    7']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    side = str.rjust if right else str.ljust
    return ["  ".join(map(side, row, widths)).rstrip() for row in rows]


class _ConsoleHandler(logging.Handler):
    """Writes lines to standard error as it is at that moment: tests replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        line = harmless(redact(self.format(record)))
        with unheard():
            if sys.stderr.isatty():
                # Soft wrap: a command in a message can be copied whole.
                style = _STYLES.get(record.levelno)
                terminal().print(line, style=style, markup=False, highlight=False, soft_wrap=True)
            else:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's log records at `level` and above to standard error, once each.

    Of several processes the first says what happens; the others, what ends them.
    """
    logger = logging.getLogger("teenytinyllama")
    processes = ProcessGroup()
    logger.setLevel(level if processes.is_leader else max(level, logging.ERROR))
    logger.propagate = False  # a library that configures the root logger must not repeat our lines
    if not logger.handlers:
        handler = _ConsoleHandler()
        if not processes.is_leader:
            handler.setFormatter(logging.Formatter(f"rank {processes.rank}: %(message)s"))
        logger.addHandler(handler)
