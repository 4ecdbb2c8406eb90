"""FRONT DOOR, continued: before a run. What to train, with what, on this machine or another."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.progress import say
from teenytinyllama.recipe import expand_path, load_recipe

if TYPE_CHECKING:
    from teenytinyllama.stages.plan import Plan

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
Length = Annotated[int, typer.Option("--sequence-length", help="Context in tokens.")]
Country = Annotated[str, typer.Option("--country", help="Whose grid: ISO 3166 alpha-3.")]
LawName = Annotated[str, typer.Option("--law", help="Scaling law: besiroglu, hoffmann, paper.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# With no text named, the plan says how much it takes: it must not be the limit.
PLENTY_OF_TEXT_BYTES = 1e12


def _plan(
    *,
    budget_usd: float | None,
    hours: float | None,
    gpu: str,
    usd_per_hour: float | None,
    text_mb: float | None,
    text: str,
    peak_tflops: float | None,
    **more: Any,
) -> Plan:
    from dataclasses import replace

    from teenytinyllama.stages import plan as planning

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
    question = planning.Question(
        gpu=card,
        usd_per_hour=card.usd_per_hour if usd_per_hour is None else usd_per_hour,
        text_bytes=_text_bytes(text_mb, text),
        budget_usd=budget_usd,
        budget_hours=hours,
        **more,
    )
    return planning.make_plan(question)


def _text_bytes(text_mb: float | None, text: str) -> float:
    from teenytinyllama.stages.plan.recipe_file import text_bytes_of

    if text:
        paths = expand_path(text)
        if not paths:
            raise UserError("text-missing", "--text", f'no file at "{text}"', "check the path")
        return float(text_bytes_of(paths))
    return text_mb * 1e6 if text_mb is not None else PLENTY_OF_TEXT_BYTES


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
    sequence_length: Length = 2048,
    country: Country = "BRA",
    law: LawName = "besiroglu",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """`ttl plan`: the best model for what one has."""
    found = _plan(
        budget_usd=budget_usd,
        hours=hours,
        gpu=gpu,
        num_gpus=num_gpus,
        usd_per_hour=usd_per_hour,
        text_mb=text_mb,
        text=text,
        unique_tokens=tokens,
        mfu=mfu,
        peak_tflops=peak_tflops,
        max_epochs=max_epochs,
        sequence_length=sequence_length,
        country=country,
        law=law,
    )
    if as_json:
        sys.stdout.write(json.dumps(_finite(found.to_json()), indent=2) + "\n")
        return
    from teenytinyllama.stages.plan import show

    show(found)


def _finite(value: Any) -> Any:
    """The value with infinities as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def new_command(  # noqa: PLR0913 (each is an option)
    language: Annotated[str, typer.Option("--language", help="ISO 639 code, such as pt.")],
    budget_usd: Budget = None,
    hours: Hours = None,
    gpu: GpuName = "a100-40gb",
    num_gpus: GpuCount = 1,
    usd_per_hour: Price = None,
    text_mb: TextMegabytes = None,
    text: TextPath = "",
    mfu: Utilisation = 0.4,
    peak_tflops: Peak = None,
    sequence_length: Length = 2048,
    country: Country = "BRA",
    name: Annotated[str, typer.Option("--name", help="Name of the run.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="The recipe to write.")] = None,
    debug: Debug = False,
) -> None:
    """`ttl new`: a recipe from a plan."""
    found = _plan(
        budget_usd=budget_usd,
        hours=hours,
        gpu=gpu,
        num_gpus=num_gpus,
        usd_per_hour=usd_per_hour,
        text_mb=text_mb,
        text=text,
        mfu=mfu,
        peak_tflops=peak_tflops,
        sequence_length=sequence_length,
        country=country,
        law="besiroglu",
    )
    from teenytinyllama.stages.plan import recipe_text

    title = name or f"{language}-{round(found.parameters / 1e6)}m"
    path = out or Path(f"{title}.toml")
    if path.exists():
        what = "is there already"
        raise UserError("recipe-exists", str(path), what, "choose another --out or --name")
    source = text or "text/**/*"
    written = recipe_text(found, name=title, language=language, text=source)
    try:
        path.write_text(written, encoding="utf-8")
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError("recipe-unwritable", str(path), what, "choose another --out") from error
    try:
        load_recipe(path)
    except UserError:
        path.unlink()
        raise
    say(
        f"{path}: {found.parameters / 1e6:.0f} M parameters, {found.tokens / 1e9:.3g} B tokens, "
        f"{found.cost.hours:.3g} h, ${found.cost.usd:,.2f}"
    )
    if not text:
        need = found.tokens / found.question.max_epochs * 4.6 / 1e9
        say(f"Put at least {need:.2g} GB of clean text into text/ (or change corpus.sources).")
    say(f"Next: ttl run {path}")


def doctor_command(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Where runs are kept.")] = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """`ttl doctor`: what this machine can do, what is missing, and what to type next."""
    from teenytinyllama.stages import doctor

    found = doctor.examine(run_dir)
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
    """Hang these commands on the front door."""
    app.command("plan", help="From money, a GPU and text on hand to a model worth training.")(
        plan_command
    )
    app.command("new", help="Write a recipe from a plan.")(new_command)
    app.command("doctor", help="What this machine can do, and what is missing.")(doctor_command)

    def settings_command(
        room: Annotated[str, typer.Argument(help="Only this section.", metavar="[ROOM]")] = "",
        markdown: Annotated[
            bool, typer.Option("--markdown", help="The whole page docs/settings.md.")
        ] = False,
        commands: Annotated[
            bool, typer.Option("--commands", help="The whole page docs/cli.md.")
        ] = False,
        debug: Debug = False,
    ) -> None:
        from teenytinyllama.cli import reference

        if markdown:
            sys.stdout.write(reference.settings_markdown())
        elif commands:
            sys.stdout.write(reference.commands_markdown(app))
        else:
            _list_settings(room)

    app.command("settings", help="Every setting of a recipe, with its default and meaning.")(
        settings_command
    )


def _list_settings(room: str) -> None:
    from teenytinyllama.cli.reference import settings_rows

    rows = [row for row in settings_rows() if not room or row[0].split(".")[0] == room]
    if not rows:
        names = sorted({path.split(".")[0] for path, *_ in settings_rows()})
        raise UserError("room-unknown", "ttl settings", f'no "{room}"', did_you_mean(room, names))
    for path, _, default, words in rows:
        sys.stdout.write(f"{path}{f' = {default}' if default else ''}\n    {words}\n")
