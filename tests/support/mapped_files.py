"""Which files this process maps into memory."""

from __future__ import annotations

from pathlib import Path

import pytest


def is_mapped(path: Path) -> bool:
    """Whether a file is mapped: whoever cuts it then kills the process that reads it (SIGBUS)."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("only Linux lists the mapped files")
    return str(path.resolve()) in maps.read_text()
