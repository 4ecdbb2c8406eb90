"""FRONT DOOR, continued: the commands that use a finished model instead of making one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[Path],
    typer.Argument(
        help="Run folders, model folders or .gguf files; several answer in turn.", metavar="MODEL"
    ),
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
    from teenytinyllama.inference import chat_repl

    chat_repl.run(models=models, system=system, assignments=assignments)


BenchModels = Annotated[
    list[str],
    typer.Argument(
        help="Run folders, model folders or sizes (160m, 460m: random weights).", metavar="MODEL"
    ),
]
Batches = Annotated[list[int], typer.Option("--batch", help="Conversations at once; repeatable.")]
Precisions = Annotated[list[str], typer.Option("--precision", help="fp32 or bf16; repeatable.")]
PromptTokens = Annotated[int, typer.Option("--prompt-tokens", help="Tokens of each prompt.")]
NewTokens = Annotated[int, typer.Option("--new-tokens", help="Tokens generated after each.")]
Repeats = Annotated[int, typer.Option("--repeats", help="Measured runs of each row.")]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads; 0: all cores.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the rows here.")]


def bench_command(
    models: BenchModels,
    batches: Batches = [1, 16],  # noqa: B006
    precisions: Precisions = ["bf16"],  # noqa: B006
    prompt_tokens: PromptTokens = 128,
    new_tokens: NewTokens = 64,
    repeats: Repeats = 5,
    threads: Threads = 0,
    json_path: JsonPath = None,
    debug: Debug = False,
) -> None:
    """`ttl bench MODEL...`: speed, memory and energy of generation, one table."""
    from teenytinyllama.inference import throughput

    cases = [
        throughput.Case(model, precision, batch, prompt_tokens, new_tokens, repeats, threads)
        for model in models
        for precision in precisions
        for batch in batches
    ]
    typer.echo(throughput.run(cases=cases, json_path=json_path))


def add_commands(app: typer.Typer) -> None:
    """Hang these commands on the command line."""
    app.command("chat", help="Talk to a model in the terminal.")(chat_command)
    app.command("bench", help="Speed, memory and energy of generation, in one table.")(
        bench_command
    )
