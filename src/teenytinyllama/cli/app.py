"""The commands of `ttl`. `ttl --help` loads neither torch nor transformers: each command imports
what it needs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from teenytinyllama import __version__
from teenytinyllama.cli import annotate, clean, inference, new, planning, publish, run
from teenytinyllama.cli.common import add_command

app = typer.Typer(
    name="ttl",
    help="Build a small language model of your own, in your own language, from scratch.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """`ttl` alone shows the help."""
    if version:
        typer.echo(f"ttl {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def settings_command(
    stage: Annotated[str, typer.Argument(help="Only this section.", metavar="[STAGE]")] = "",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The whole page docs/settings.md.")
    ] = False,
    commands: Annotated[
        bool, typer.Option("--commands", help="The whole page docs/cli.md.")
    ] = False,
) -> None:
    """`ttl settings [STAGE]`."""
    from teenytinyllama.cli import reference

    if markdown:
        text = reference.settings_markdown()
    elif commands:
        text = reference.commands_markdown(app)
    else:
        text = reference.settings_text(stage)
    typer.echo(text, nl=False)


run.add_commands(app)
inference.add_commands(app)
clean.add_commands(app)
annotate.add_commands(app)
publish.add_commands(app)
planning.add_commands(app)
add_command(app, "settings", "Every setting, its default and meaning.", settings_command)
new.add_commands(app)
