"""What has to be equal in all processes of a run, found before the first stage."""

from __future__ import annotations

import platform
import socket
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from teenytinyllama import __version__
from teenytinyllama.errors import UserError
from teenytinyllama.pipeline.fingerprints import changed_settings
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.redaction import redact_values
from teenytinyllama.settings.recipe import Recipe

VERSIONED = ("torch", "transformers", "tokenizers", "sentencepiece", "numpy", "accelerate")


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that results depend on."""
    found = {"python": platform.python_version(), "teenytinyllama": __version__}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def check_processes(processes: ProcessGroup, recipe: Recipe, run_dir: Path) -> None:
    """Raise UserError on rank 0 where another rank has other software, recipe or files.

    The other ranks wait for what rank 0 says next.
    """
    if processes.count == 1:
        return
    name = processes.broadcast(f".seen-by-all-{uuid4().hex}" if processes.is_leader else None)
    mark = run_dir / name
    if processes.is_leader:
        mark.touch()
    processes.wait()
    ranks = processes.gather(
        {
            "host": socket.gethostname(),
            "versions": versions(),
            "recipe": redact_values(recipe.model_dump(mode="json")),
            "run_dir": str(run_dir.absolute()),
            "sees_mark": mark.is_file(),
        }
    )
    if processes.is_leader:
        mark.unlink()
        for rank, found in enumerate(ranks):
            _check_rank(f"rank {rank} on {found['host']}", found, ranks[0])


def _check_rank(who: str, found: dict[str, Any], leader: dict[str, Any]) -> None:
    if changed := changed_settings(leader["versions"], found["versions"]):
        raise UserError(
            "ranks-versions",
            who,
            f"has other software than rank 0: {changed}",
            "make install on every machine",
        )
    if changed := changed_settings(leader["recipe"], found["recipe"]):
        raise UserError(
            "ranks-recipe",
            who,
            f"has another recipe than rank 0: {changed}",
            "start every machine with the same recipe and the same --set",
        )
    if not found["sees_mark"]:
        raise UserError(
            "folder-not-shared",
            found["run_dir"],
            f"{who} does not see the files of rank 0 on {leader['host']} there",
            "--run-dir with a folder on a file system that all machines share",
        )
