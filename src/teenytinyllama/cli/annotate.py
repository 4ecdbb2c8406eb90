"""`ttl annotate`: labels for the quality classifier, by a large model at an address."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from teenytinyllama.cli.common import RecipePath, add_command
from teenytinyllama.errors import UserError


@dataclass(frozen=True)
class EndpointOptions:
    """Which large model is asked, and how."""

    endpoint: Annotated[
        str, typer.Option("--endpoint", help="OpenAI-compatible address, such as http://HOST/v1.")
    ]
    model: Annotated[str, typer.Option("--model", help="Its name there.")]
    key_variable: Annotated[
        str, typer.Option("--key-variable", help="Environment variable that holds the key.")
    ] = "OPENAI_API_KEY"
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, max=86_400, help="Seconds for one answer.")
    ] = 120.0
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, help="Questions asked at a time.")
    ] = 4
    usd_read: Annotated[
        float, typer.Option("--usd-read", min=0, help="Price of a million tokens it reads.")
    ] = 0.0
    usd_written: Annotated[
        float, typer.Option("--usd-written", min=0, help="Price of a million it writes.")
    ] = 0.0
    max_usd: Annotated[
        float, typer.Option("--max-usd", min=0, help="Stop when so much is spent; 0: no limit.")
    ] = 0.0


def annotate_command(
    recipe: RecipePath,
    asked: EndpointOptions,
    out: Annotated[Path, typer.Option("--out", help="File of labels.")] = Path("labels.jsonl"),
    documents: Annotated[
        int, typer.Option("--documents", min=20, max=20_000, help="How many, over all sources.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Other documents.")] = 0,
) -> None:
    """`ttl annotate RECIPE`."""
    from teenytinyllama.chat_endpoint import ChatEndpoint
    from teenytinyllama.settings.recipe import load_recipe
    from teenytinyllama.stages.corpus.annotation import AnnotationSettings, annotate

    if asked.max_usd and not asked.usd_read + asked.usd_written:
        fix = f"--max-usd {asked.max_usd:g} --usd-read PRICE --usd-written PRICE"
        raise UserError("usage", "--max-usd", "needs the prices", fix)
    loaded = load_recipe(recipe)
    if loaded.corpus is None:
        what = "has no section [corpus]"
        raise UserError("stage-not-in-recipe", str(recipe), what, "add [corpus] to the recipe")
    client = ChatEndpoint(
        asked.endpoint, asked.model, key_variable=asked.key_variable, timeout_s=asked.timeout
    )
    wanted = AnnotationSettings(
        out,
        num_documents=documents,
        seed=seed,
        workers=asked.workers,
        usd_read=asked.usd_read,
        usd_written=asked.usd_written,
        max_usd=asked.max_usd,
    )
    counts = annotate(loaded.corpus, loaded.language, client, wanted)
    for name, count in sorted(counts.items()):
        typer.echo(f"{name:>8}  {count:,}")
    typer.echo("\nTo use them, in the recipe:\n[corpus.filters.quality_classifier]")
    typer.echo(f'labels_path = "{out}"\nkept_fraction = 0.5')
    typer.echo(f"then: ttl corpus {shlex.quote(str(recipe))}")


def add_commands(app: typer.Typer) -> None:
    """Register this command."""
    add_command(
        app, "annotate", "Have a large model score documents, to learn from.", annotate_command
    )
