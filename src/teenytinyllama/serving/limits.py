"""The limits that keep the server responsive, whatever is sent to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from teenytinyllama.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Limits:
    """Every limit of `ttl serve`; `--set name=value` changes one."""

    max_body_bytes: int = 256 * 1024
    """Largest request body; beyond: 413 while it is read."""
    header_timeout_s: float = 10.0
    """Time to send the request's head; later: 408."""
    body_timeout_s: float = 10.0
    """Time to send the request's body; later: 408."""
    write_timeout_s: float = 30.0
    """How long a client may take to accept a part of its answer before it is dropped."""
    keep_alive_s: float = 15.0
    """How long a connection without a request stays open."""
    max_connections: int = 512
    """Open connections; beyond, the one that has been idle longest is closed."""
    max_messages: int = 64
    """Messages of one conversation."""
    max_rows: int = 64
    """Answers generated at once by each model; fewer where memory is short."""
    max_waiting: int = 128
    """Requests waiting for a row, all models together; beyond: 503 with Retry-After."""
    max_answer_s: float = 600.0
    """Longest generation of one answer; it then ends with finish_reason length."""
    drain_s: float = 9.0
    """How long running answers may continue after SIGTERM."""

    def changed(self, assignment: str) -> Limits:
        """These limits with `name=value` applied. Raises UserError for a wrong name or value.

        >>> Limits().changed("max_rows=8").max_rows
        8
        """
        name, equals, value = (part.strip() for part in assignment.partition("="))
        known = dataclasses.asdict(self)
        if not equals or name not in known:
            what = f'got "{assignment}", expected name=value'
            raise UserError("serve-setting", name, what, did_you_mean(name, known))
        kind = type(known[name])
        try:
            number = kind(value)
        except ValueError:
            number = 0
        if not 0 < number < 1e12:
            what = f'got "{value}", expected a positive {kind.__name__}'
            raise UserError("serve-setting", name, what, f"--set {name}={known[name]}")
        changes: dict[str, int | float] = {name: number}
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
