"""A signal that asks a training to stop only raises a flag: the step and its save come first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def stop_signals(note: Callable[[str], None]) -> Iterator[None]:
    """Pass the name of every stop signal to `note`, in place of what it would do."""

    def handle(number: int, frame: Any) -> None:
        note(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
