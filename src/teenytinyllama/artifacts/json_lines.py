"""Reading the logs of a run, which a kill may have cut short."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a `.jsonl` file. A line cut short by a kill is skipped."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def read_last_lines(path: Path) -> list[dict[str, Any]]:
    """As `read_lines`, each step once: a resumed run may log a step again; the last line counts."""
    by_step: dict[Any, dict[str, Any]] = {}
    for line in read_lines(path):
        if isinstance(line.get("step"), int):
            by_step[line["step"]] = line
    return [by_step[step] for step in sorted(by_step)]
