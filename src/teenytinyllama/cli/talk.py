"""FRONT DOOR, continued: the commands that use a finished model instead of making one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[Path],
    typer.Argument(help="Run folders or model folders; several answer in turn.", metavar="MODEL"),
]
SamplingOption = Annotated[
    list[str],
    typer.Option("--set", help="Change one setting: temperature=0.2, max_new_tokens=100 ..."),
]
System = Annotated[str, typer.Option("--system", help="Say who the assistant is.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def chat_command(
    models: Models,
    system: System = "",
    assignments: SamplingOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    debug: Debug = False,
) -> None:
    """`ttl chat MODEL...`: on a terminal, or one answer per line of piped input."""
    from teenytinyllama.stages import chat

    chat.run(models=models, system=system, assignments=assignments)


def add_commands(app: typer.Typer) -> None:
    """Hang these commands on the front door."""
    app.command("chat", help="Talk to a model in the terminal.")(chat_command)
