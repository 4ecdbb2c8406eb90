"""FRONT DOOR, continued: `ttl publish`, which shows what it would send until it is told to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)


Run = Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")]
To = Annotated[str, typer.Option("--to", help="Repository on the Hub: owner/name.")]
Upload = Annotated[
    bool, typer.Option("--upload", "--yes", help="Send it. Without this, nothing is sent.")
]
Public = Annotated[bool, typer.Option("--public", help="New repositories can be seen by everyone.")]
Only = Annotated[
    list[str], typer.Option("--only", help="model, chat or data; default: all the run has.")
]
WithOptimizer = Annotated[
    bool,
    typer.Option("--with-optimizer", help="Checkpoints that anyone can train on from (larger)."),
]
Accept = Annotated[
    list[str],
    typer.Option("--accept", help="Fingerprint of a finding that was looked at and is no secret."),
]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Write the files to this new folder instead.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The plan as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def publish_command(
    run: Run,
    to: To,
    upload: Upload = False,
    public: Public = False,
    only: Only = [],  # noqa: B006 (typer reads the default, nobody changes it)
    with_optimizer: WithOptimizer = False,
    accept: Accept = [],  # noqa: B006
    folder: Folder = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """`ttl publish RUN --to owner/name`."""
    from teenytinyllama.publishing import publisher

    parts = tuple(part for part in publisher.PARTS if part in only)
    for name in only:
        if name not in publisher.PARTS:
            what = f'unknown part "{name}"'
            raise UserError("publish-part", "--only", what, did_you_mean(name, publisher.PARTS))
    request = publisher.Request(run, to, parts, with_optimizer, accept)
    repositories = publisher.prepare(request)
    typer.echo(publisher.describe(repositories, public=public, as_json=as_json))
    if folder is not None:
        publisher.write_folder(repositories, folder)
    elif upload:
        publisher.send(repositories, public=public)
    else:
        logger.info("Nothing was sent. To send exactly this: the same command with --upload")


def add_commands(app: typer.Typer) -> None:
    """Hang this command on the command line."""
    app.command("publish", help="A finished run to the Hugging Face Hub; dry run first.")(
        publish_command
    )
