"""`ttl publish`: a dry run, and an upload with `--upload`. `ttl export`: for other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import add_command
from teenytinyllama.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)


def publish_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    to: Annotated[str, typer.Option("--to", help="Repository on the Hub: owner/name.")],
    upload: Annotated[
        bool, typer.Option("--upload", "--yes", help="Send it. Without this, nothing is sent.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="New repositories can be seen by everyone.")
    ] = False,
    only: Annotated[
        list[str], typer.Option("--only", help="model, chat or data; default: all the run has.")
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    with_optimizer: Annotated[
        bool,
        typer.Option(
            "--with-optimizer", help="Include optimizer states: anyone can resume (larger)."
        ),
    ] = False,
    accept: Annotated[
        list[str],
        typer.Option("--accept", help="Fingerprint of a finding that was checked: no secret."),
    ] = [],  # noqa: B006
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Write the files to this new folder instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
) -> None:
    """`ttl publish RUN --to owner/name`."""
    from teenytinyllama.publishing import publisher
    from teenytinyllama.publishing.repositories import PARTS

    parts = tuple(part for part in PARTS if part in only)
    for name in only:
        if name not in PARTS:
            what = f'unknown part "{name}"'
            raise UserError("publish-part", "--only", what, did_you_mean(name, PARTS))
    request = publisher.PublishRequest(run, to, parts, with_optimizer, accept)
    repositories = publisher.prepare(request)
    typer.echo(publisher.describe(repositories, public=public, as_json=as_json))
    if folder is not None:
        publisher.write_folder(repositories, folder)
    elif upload:
        publisher.send(repositories, public=public)
    else:
        logger.info("Nothing was sent. To send exactly this: the same command with --upload")


def export_command(
    program: Annotated[
        str, typer.Argument(help="ollama, lmstudio, llama.cpp, mlx or vllm.", metavar="PROGRAM")
    ],
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write; default NAME-PROGRAM.", metavar="FOLDER"),
    ] = None,
    system: Annotated[str, typer.Option("--system", help="Ollama: say who the assistant is.")] = "",
) -> None:
    """`ttl export PROGRAM RUN`."""
    from teenytinyllama.publishing.export import export

    lines = export(program, run, out, system)
    logger.info("Next, type:")
    typer.echo("\n".join(lines))


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    title = "What Ollama, LM Studio, llama.cpp, MLX or vLLM needs to run a model."
    add_command(app, "export", title, export_command)
    add_command(app, "publish", "Upload a finished run to the Hub; dry run first.", publish_command)
