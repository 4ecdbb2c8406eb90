"""Commands before a run: `ttl plan`, `ttl check` and `ttl doctor`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teenytinyllama.cli.common import AsJson, RecipePath, RunOptions, add_command, load

if TYPE_CHECKING:
    from teenytinyllama.settings.recipe import Recipe

logger = logging.getLogger(__name__)

DEFAULT_LAW = "besiroglu"


def _share(text: str | float) -> float:
    """A share as runs print it: 0.34 in a file, "34 %" in a progress line."""
    text = str(text).strip()
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


@dataclass(frozen=True)
class BudgetOptions:
    """Options of every command that makes a plan."""

    budget_usd: Annotated[
        float | None, typer.Option("--budget-usd", help="Money to spend, US dollars.")
    ] = None
    budget_hours: Annotated[
        float | None, typer.Option("--hours", help="Hours to spend, instead of money.")
    ] = None
    gpu: Annotated[str, typer.Option("--gpu", help="The GPU; a wrong name lists them all.")] = (
        "a100-40gb"
    )
    num_gpus: Annotated[int, typer.Option("--gpus", help="How many GPUs.")] = 1
    usd_per_hour: Annotated[
        float | None, typer.Option("--usd-per-hour", help="Price of one GPU for one hour.")
    ] = None
    text_mb: Annotated[
        float | None, typer.Option("--text-mb", help="Clean text you have, in megabytes.")
    ] = None
    text: Annotated[
        str, typer.Option("--text", help="The text itself: a file, folder or glob.")
    ] = ""
    mfu: Annotated[
        float,
        typer.Option(
            "--mfu",
            parser=_share,
            metavar="SHARE",
            help="Share of the data sheet's peak, as a run prints it: 0.4 or 40%; with "
            "--peak-tflops, its share of the measured peak.",
        ),
    ] = 0.4
    scaling_efficiency: Annotated[
        float,
        typer.Option(
            "--scaling-efficiency",
            parser=_share,
            metavar="SHARE",
            help="Speed of several GPUs over that of one times their number; 1 if --mfu is of a "
            "run on as many.",
        ),
    ] = 0.9
    peak_tflops: Annotated[
        float | None,
        typer.Option("--peak-tflops", help="Peak of the GPU, as `ttl doctor` measures it."),
    ] = None
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", help="Context in tokens; default 2048, on a CPU 512."),
    ] = None
    max_epochs: Annotated[
        float, typer.Option("--max-epochs", help="Most epochs over the text.")
    ] = 16.0
    country: Annotated[
        str, typer.Option("--country", help="Country of the grid, ISO 3166 alpha-3.")
    ] = "BRA"


@dataclass(frozen=True)
class PlanOptions(BudgetOptions):
    """Options of `ttl plan` beside those."""

    unique_tokens: Annotated[
        float | None, typer.Option("--tokens", help="Unique tokens you have, if counted.")
    ] = None
    law: Annotated[str, typer.Option("--law", help="Scaling law: besiroglu, hoffmann, paper.")] = (
        DEFAULT_LAW
    )


def plan_command(
    options: PlanOptions,
    recipe: Annotated[
        Path | None,
        typer.Argument(help="What this recipe takes, instead of a plan.", metavar="[RECIPE]"),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE",
            help="Train small models on this run's tokens and fit the law to them.",
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", help="About how long those may train.")
    ] = 20.0,
    as_json: AsJson = False,
) -> None:
    """`ttl plan`: the best model for a budget, or what a recipe takes."""
    if recipe is not None:
        _show_cost(recipe, options, as_json=as_json)
        return
    from teenytinyllama.planning.plan_request import request_from_options
    from teenytinyllama.planning.planner import make_plan

    plan = make_plan(request_from_options(**asdict(options)))
    if calibrate is not None:
        from teenytinyllama.pipeline.runner import PipelineRunner
        from teenytinyllama.planning.scaling_runs import fit_scaling_law

        def run_stages(recipe: Recipe, run_dir: Path, names: Sequence[str]) -> None:
            PipelineRunner(recipe, run_dir, calibrate).run_stages(names)

        fitted = fit_scaling_law(calibrate, minutes=minutes, law=options.law, run_stages=run_stages)
        plan = make_plan(request_from_options(**asdict(options) | fitted))
    if as_json:
        sys.stdout.write(json.dumps(plan.to_json(), indent=2) + "\n")
        return
    from teenytinyllama.planning.plan_display import show_plan

    show_plan(plan)


def _show_cost(path: Path, options: PlanOptions, *, as_json: bool) -> None:
    from teenytinyllama.planning.plan_request import request_from_options
    from teenytinyllama.planning.recipe_cost import check_budget, cost_of_recipe
    from teenytinyllama.settings.recipe import load_recipe

    request = request_from_options(**asdict(options))
    given = options.usd_per_hour is not None
    loaded = load_recipe(path)
    cost = cost_of_recipe(loaded, request, price_is_given=given)
    check_budget(cost, request)
    if as_json:
        sys.stdout.write(json.dumps(cost.to_json(), indent=2) + "\n")
        return
    from teenytinyllama.planning.plan_display import show_recipe

    show_recipe(cost)
    _show_phases(loaded)


def _show_phases(recipe: Recipe) -> None:
    """The mixes that follow one another in training, as asked for; nothing where there are none."""
    if recipe.pack is not None and recipe.pack.phases:
        from teenytinyllama.stages.pack.phases import phase_table

        sys.stdout.write(f"{phase_table(recipe.pack)}\n")


def check_command(recipe: RecipePath, options: RunOptions) -> None:
    """`ttl check RECIPE`: everything that would stop the run and can be known before it."""
    from teenytinyllama.pipeline.recipe_check import check_recipe
    from teenytinyllama.pipeline.registry import STAGES

    loaded, run_dir = load(recipe, options)
    check_recipe(loaded, STAGES, run_dir)
    _show_phases(loaded)
    logger.info(f"{recipe}: nothing found that would stop it. Next: ttl run {recipe}")


def doctor_command(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="Check whether this run fits here.", metavar="[RECIPE]"),
    ] = None,
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Where runs are kept.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """`ttl doctor`: what this machine can do, what is missing, and what to type next."""
    from teenytinyllama.planning import doctor
    from teenytinyllama.settings.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe is not None else None
    report = doctor.examine(run_dir, loaded, str(recipe or ""))
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    colours = {"good": "green", "warn": "yellow", "bad": "red"}
    signs = {"good": "ok", "warn": "note", "bad": "missing"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in report.checks:
        mark = f"[{colours[row.health]}]{signs[row.health]}[/]"
        table.add_row(mark, row.name, row.value, row.fix)
    console = Console()
    console.print(table)
    console.print(f"\nNext: [bold]{report.next_command}[/]", highlight=False)


def add_commands(app: typer.Typer) -> None:
    """Register these commands."""
    add_command(
        app, "plan", "The best model for a budget, a GPU and the text you have.", plan_command
    )
    add_command(
        app, "check", "Find what would stop a run before it starts: all of it.", check_command
    )
    add_command(app, "doctor", "What this machine can do, and what is missing.", doctor_command)
