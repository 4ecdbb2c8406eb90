"""FRONT DOOR, continued: before a run. What to train, with what, on this machine or another."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teenytinyllama.cli.common import add_command
from teenytinyllama.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)


if TYPE_CHECKING:
    from teenytinyllama.planning import Plan
    from teenytinyllama.settings.recipe import Recipe

Budget = Annotated[float | None, typer.Option("--budget-usd", help="Money to spend, US dollars.")]
Hours = Annotated[float | None, typer.Option("--hours", help="Hours to spend, in place of money.")]
GpuName = Annotated[str, typer.Option("--gpu", help="The card; a wrong name lists them all.")]
GpuCount = Annotated[int, typer.Option("--gpus", help="How many cards.")]
Price = Annotated[
    float | None, typer.Option("--usd-per-hour", help="Price of one card for one hour.")
]
TextMegabytes = Annotated[
    float | None, typer.Option("--text-mb", help="Clean text on hand, in megabytes.")
]
TextPath = Annotated[str, typer.Option("--text", help="The text itself: a file, folder or glob.")]
Tokens = Annotated[
    float | None, typer.Option("--tokens", help="Different tokens on hand, if counted.")
]
Utilisation = Annotated[float, typer.Option("--mfu", help="Share of the card's peak, 0 to 1.")]
Peak = Annotated[
    float | None, typer.Option("--peak-tflops", help="Peak of the card, as `ttl doctor` measures.")
]
Epochs = Annotated[float, typer.Option("--max-epochs", help="Passes over the text at most.")]
Length = Annotated[
    int | None,
    typer.Option("--sequence-length", help="Context in tokens; default 2048, on a processor 512."),
]
Country = Annotated[str, typer.Option("--country", help="Whose grid: ISO 3166 alpha-3.")]
LawName = Annotated[str, typer.Option("--law", help="Scaling law: besiroglu, hoffmann, paper.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

DEFAULT_LENGTH, CPU_LENGTH = 2048, 512

# With no text named, the plan says how much it takes: it must not be the limit.
PLENTY_OF_TEXT_BYTES = 1e12


def plan_for(
    *,
    budget_usd: float | None,
    hours: float | None,
    gpu: str,
    usd_per_hour: float | None,
    text_mb: float | None,
    text: str,
    peak_tflops: float | None,
    sequence_length: int | None,
    **more: Any,
) -> Plan:
    """The plan for what the options say. Raises UserError naming the option that is wrong."""
    from dataclasses import replace

    from teenytinyllama import planning

    cards = planning.gpus()
    if gpu not in cards:
        fix = f"use one of: {', '.join(cards)} (others: the nearest with --peak-tflops)"
        raise UserError("gpu-unknown", "--gpu", f'no card "{gpu}"', fix)
    if more["law"] not in planning.law_names():
        fix = did_you_mean(more["law"], planning.law_names())
        raise UserError("law-unknown", "--law", f'no law "{more["law"]}"', fix)
    card = cards[gpu]
    if peak_tflops is not None:
        card = replace(card, peak_tflops=peak_tflops)
    more |= _text(text_mb, text)
    if sequence_length is None:
        sequence_length = CPU_LENGTH if gpu == "cpu" else DEFAULT_LENGTH
    question = planning.Question(
        gpu=card,
        usd_per_hour=card.usd_per_hour if usd_per_hour is None else usd_per_hour,
        budget_usd=budget_usd,
        budget_hours=hours,
        sequence_length=sequence_length,
        **more,
    )
    return planning.make_plan(question)


def _text(text_mb: float | None, text: str) -> dict[str, float]:
    """Bytes of text, and bytes of a character where the text itself is there to look at."""
    if not text:
        return {"text_bytes": text_mb * 1e6 if text_mb is not None else PLENTY_OF_TEXT_BYTES}
    from teenytinyllama.planning import text_on_hand
    from teenytinyllama.settings.base import expand_path

    paths = expand_path(text)
    if not paths:
        raise UserError("text-missing", "--text", f'no file at "{text}"', "check the path")
    found = text_on_hand(paths)
    logger.info(
        f"text: about {found.text_bytes / 1e6:,.3g} MB in {found.num_files:,} files, by their "
        f"sizes and a sample of {found.sampled_bytes / 1e3:,.0f} kB"
    )
    size = found.text_bytes if text_mb is None else text_mb * 1e6
    return {
        "text_bytes": size,
        "bytes_per_character": found.bytes_per_character,
        "different_words": found.different_words,
    }


def plan_command(  # noqa: PLR0913 (each is an option)
    budget_usd: Budget = None,
    hours: Hours = None,
    gpu: GpuName = "a100-40gb",
    num_gpus: GpuCount = 1,
    usd_per_hour: Price = None,
    text_mb: TextMegabytes = None,
    text: TextPath = "",
    tokens: Tokens = None,
    mfu: Utilisation = 0.4,
    peak_tflops: Peak = None,
    max_epochs: Epochs = 4.0,
    sequence_length: Length = None,
    country: Country = "BRA",
    law: LawName = "besiroglu",
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="Train small pilots on this run's tokens and refit."),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", help="About how long the pilots may train.")
    ] = 20.0,
    as_json: AsJson = False,
) -> None:
    """`ttl plan`: the best model for what one has."""
    asked: dict[str, Any] = {
        "budget_usd": budget_usd,
        "hours": hours,
        "gpu": gpu,
        "num_gpus": num_gpus,
        "usd_per_hour": usd_per_hour,
        "text_mb": text_mb,
        "text": text,
        "unique_tokens": tokens,
        "mfu": mfu,
        "peak_tflops": peak_tflops,
        "max_epochs": max_epochs,
        "sequence_length": sequence_length,
        "country": country,
        "law": law,
    }
    found = plan_for(**asked)
    if calibrate is not None:
        from teenytinyllama.pipeline.runner import PipelineRunner
        from teenytinyllama.planning.scaling_runs import calibrated

        def run_stages(recipe: Recipe, run_dir: Path, names: Sequence[str]) -> None:
            PipelineRunner(recipe, run_dir, calibrate).run_stages(names)

        found = plan_for(
            **asked | calibrated(calibrate, minutes=minutes, law=law, run_stages=run_stages)
        )
    if as_json:
        sys.stdout.write(json.dumps(_finite(found.to_json()), indent=2) + "\n")
        return
    from teenytinyllama.planning import show

    show(found)


def _finite(value: Any) -> Any:
    """The value with infinities as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def doctor_command(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="Look whether this run fits here.", metavar="[RECIPE]"),
    ] = None,
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Where runs are kept.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """`ttl doctor`: what this machine can do, what is missing, and what to type next."""
    from teenytinyllama.planning import doctor
    from teenytinyllama.settings.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe is not None else None
    found = doctor.examine(run_dir, loaded, str(recipe or ""))
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    colours = {"good": "green", "warn": "yellow", "bad": "red"}
    signs = {"good": "ok", "warn": "note", "bad": "missing"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in found.findings:
        mark = f"[{colours[row.health]}]{signs[row.health]}[/]"
        table.add_row(mark, row.name, row.value, row.fix)
    console = Console()
    console.print(table)
    console.print(f"\nNext: [bold]{found.next_command}[/]", highlight=False)


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    add_command(
        app, "plan", "From money, a GPU and text on hand to a model worth training.", plan_command
    )
    add_command(app, "doctor", "What this machine can do, and what is missing.", doctor_command)
