"""`ttl` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.toml"
SMALL_RECIPE = """name = "small"
[corpus]
sources = [{ kind = "storybook", license = "Apache-2.0", num_documents = 40 }]
"""


def ttl(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `ttl` with the arguments; it must exit with `code` and show no traceback."""
    command = [sys.executable, "-m", "teenytinyllama.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def log_of(*arguments: object, code: int = 0) -> str:
    """What `ttl` writes to standard error."""
    return ttl(*arguments, code=code).stderr.strip()
