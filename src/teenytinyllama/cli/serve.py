"""FRONT DOOR, continued: `ttl serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[Path],
    typer.Argument(help="Run folders, model folders or GGUF files to serve.", metavar="MODEL"),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any free one.")]
KeyFile = Annotated[
    Path | None, typer.Option("--api-key-file", help="File with the key that clients must send.")
]
AllowHost = Annotated[
    list[str], typer.Option("--allow-host", help="Another name this server is reached by.")
]
Data = Annotated[
    list[Path], typer.Option("--data", help="Chat data to search; default: what the run learnt.")
]
LimitOption = Annotated[
    list[str], typer.Option("--set", help="Change one limit: max_rows=8, max_waiting=256 ...")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def serve_command(
    models: Models,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: KeyFile = None,
    allow_host: AllowHost = [],  # noqa: B006 (typer reads the default, nobody changes it)
    data: Data = [],  # noqa: B006
    assignments: LimitOption = [],  # noqa: B006
    debug: Debug = False,
) -> None:
    """`ttl serve MODEL...`: OpenAI's API and a page to chat on."""
    from teenytinyllama.serving import server

    server.run(
        models=models,
        host=host,
        port=port,
        api_key_path=api_key_file,
        allowed_hosts=allow_host,
        data=data,
        assignments=assignments,
    )


def add_commands(app: typer.Typer) -> None:
    """Hang this command on the command line."""
    app.command("serve", help="Serve models over HTTP, with a page to chat on.")(serve_command)
