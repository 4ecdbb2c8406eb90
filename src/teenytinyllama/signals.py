"""What Ctrl-C, SIGTERM and SIGHUP do: the one place that decides.

Every stage survives SIGKILL at any moment, so there is nothing to unwind: a signal writes one line
and ends the process at once. An exception would not do: libraries swallow it, and raised while one
of them is being imported it breaks the interpreter. Work that can be saved first (training, a
server's answers) takes the signal for as long as it lasts, inside `taken`.

Loaded before anything else of the package: it imports little but the standard library.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from teenytinyllama.process_group import ProcessGroup

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 75
# A library's call (the training of a tokenizer) may take minutes, and Python's handlers wait for
# its end. A thread does not.
PATIENCE_S = 2.0


class _State:
    """Of this process; the children that it forks have none."""

    pid = 0
    code = INTERRUPTED
    line = ""
    note: Callable[[str], None] | None = None


def install(arguments: list[str]) -> None:
    """Take the stop signals, for the command that `arguments` name."""
    command = next((one for one in arguments if not one.startswith("-")), "")
    lasts = command in ("serve", "chat") or "--watch" in arguments
    again = "the same command without --redo" if "--redo" in arguments else "the same command again"
    _State.pid = os.getpid()
    _State.code = 0 if lasts else INTERRUPTED
    speaks = not lasts and ProcessGroup().is_leader
    _State.line = f"Run {again} to resume." if speaks else ""
    for number in STOP_SIGNALS:
        if not _is_ignored(number):
            signal.signal(number, _handle)
    # The first to be registered runs last: afterwards Python gives signals back to the system.
    atexit.register(_ignore)
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, end == reading)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def _is_ignored(number: signal.Signals) -> bool:
    """Whether `nohup` asked to live on; a shell's background job stops for an explicit Ctrl-C."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


@contextmanager
def taken(note: Callable[[str], None]) -> Iterator[None]:
    """Inside, a stop signal only passes its name to `note`."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before, _State.note = _State.note, note
    try:
        for number in STOP_SIGNALS:
            if not _is_ignored(number):
                signal.signal(number, lambda number, _: note(signal.Signals(number).name))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _State.note = before


@contextmanager
def ctrl_c_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt: at a prompt."""
    before, was = signal.signal(signal.SIGINT, signal.default_int_handler), _State.note
    _State.note = lambda _: None
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _State.note = was


def finish(code: int) -> None:
    """The command has ended with this exit code: a signal that comes now changes nothing."""
    _State.code, _State.line = code, ""


def _ignore() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.pid:
        os._exit(INTERRUPTED)  # a forked worker: its parent says it
    _leave(number)


def _watch(reading: int) -> None:
    """Leave where the handler does not come to its turn."""
    with suppress(OSError):
        while data := os.read(reading, 1):
            number = data[0]
            if number not in STOP_SIGNALS or _State.note is not None:
                continue
            threading.Event().wait(PATIENCE_S)
            if _State.note is None:
                _leave(number)


def _leave(number: int) -> None:
    if _State.line:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # A progress bar hides the cursor and leaves its line open.
        start = "\r\x1b[K\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
        with suppress(OSError):
            # Not through `sys.stderr`: the signal may have come while that was writing.
            os.write(2, f"{start}stopped: {name}. {_State.line}\n".encode())
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(_State.code)
