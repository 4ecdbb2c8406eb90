"""Commands that use a finished model: `ttl chat`, `bench`, `serve` and `classify`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import add_command

# typer reads the empty list as a default, and nobody changes it.
# ruff: noqa: B006


@contextmanager
def without_hub() -> Iterator[None]:
    """No request to the Hugging Face Hub inside: these commands read local paths only."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for the processes of `ttl bench`
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[0]
        os.environ.pop("HF_HUB_OFFLINE")
        if before[1] is not None:
            os.environ["HF_HUB_OFFLINE"] = before[1]


def chat_command(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, model folders or .gguf files; several answer in turn.",
            metavar="MODEL",
        ),
    ],
    system: Annotated[str, typer.Option("--system", help="Say who the assistant is.")] = "",
    assignments: Annotated[
        list[str],
        typer.Option("--set", help="Change one setting: temperature=0.2, max_new_tokens=100 ..."),
    ] = [],
) -> None:
    """`ttl chat MODEL...`: on a terminal, or one answer per line of piped input."""
    from teenytinyllama.inference import chat_repl

    with without_hub():
        chat_repl.run(models=models, system=system, assignments=assignments)


def bench_command(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, model folders or sizes (160m, 460m: random weights).",
            metavar="MODEL",
        ),
    ],
    batches: Annotated[
        list[int], typer.Option("--batch", help="Conversations at once; repeatable.")
    ] = [1, 16],
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="fp32 or bf16; repeatable. Default bf16, fp32 where there are no kernels for it.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", help="Tokens of each prompt.")
    ] = 128,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", help="Tokens generated after each.")
    ] = 64,
    repeats: Annotated[int, typer.Option("--repeats", help="Measured runs of each row.")] = 5,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0: all cores.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows here.")
    ] = None,
) -> None:
    """`ttl bench MODEL...`: speed, memory and energy of generation, one table."""
    from teenytinyllama import hardware
    from teenytinyllama.inference import throughput

    fits = hardware.multiplies_bfloat16(hardware.present_device())
    cases = [
        throughput.BenchmarkCase(
            model, precision, batch, prompt_tokens, new_tokens, repeats, threads
        )
        for model in models
        for precision in precisions or ["bf16" if fits else "fp32"]
        for batch in batches
    ]
    with without_hub():
        typer.echo(throughput.run(cases=cases, json_path=json_path))


def serve_command(
    models: Annotated[
        list[Path],
        typer.Argument(help="Run folders, model folders or GGUF files to serve.", metavar="MODEL"),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0: any free one.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="File with the key that clients must send."),
    ] = None,
    no_key: Annotated[
        bool,
        typer.Option("--no-key", help="Let other machines use this server without a key."),
    ] = False,
    allow_host: Annotated[
        list[str], typer.Option("--allow-host", help="Another name this server is reached by.")
    ] = [],
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Chat data to search; default: what the run learned from."),
    ] = [],
    assignments: Annotated[
        list[str],
        typer.Option("--set", help="Change one limit: max_rows=8, max_waiting=256 ..."),
    ] = [],
) -> None:
    """`ttl serve MODEL...`: OpenAI's API and a page to chat on."""
    from teenytinyllama.serving import server

    with without_hub():
        server.run(
            models=models,
            host=host,
            port=port,
            api_key_path=api_key_file,
            needs_no_key=no_key,
            allowed_hosts=allow_host,
            data=data,
            assignments=assignments,
        )


def classify_command(
    model: Annotated[
        Path, typer.Argument(help="A run, or the folder of a classifier.", metavar="MODEL")
    ],
    files: Annotated[
        list[Path], typer.Argument(help="Files to label: .txt, .csv, .jsonl ...", metavar="FILE...")
    ],
    task: Annotated[
        str, typer.Option("--task", help="Which classifier, where the run has several.")
    ] = "",
    columns: Annotated[
        list[str],
        typer.Option("--column", help="Column of the text; twice for a pair. Default: as trained."),
    ] = [],
) -> None:
    """`ttl classify MODEL FILE...`: JSON lines on standard output."""
    from teenytinyllama.stages.finetune import classify

    with without_hub():
        classify.run(model=model, files=files, task=task, columns=columns)


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    add_command(app, "chat", "Talk to a model in the terminal.", chat_command)
    add_command(app, "bench", "Speed, memory and energy of generation.", bench_command)
    add_command(app, "serve", "Serve models over HTTP, with a page to chat on.", serve_command)
    add_command(app, "classify", "Label the texts of files with a classifier.", classify_command)
