"""What commands share: options, how they are registered, how stages are run."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from teenytinyllama.console import configure_logging
from teenytinyllama.errors import UserError

if TYPE_CHECKING:
    from teenytinyllama.settings.recipe import Recipe

RecipePath = Annotated[
    Path, typer.Argument(help="A TOML file, or a name from `ttl recipes`.", metavar="RECIPE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@dataclass(frozen=True)
class RunOptions:
    """Options of every command that runs stages."""

    overrides: Annotated[
        list[str],
        typer.Option("--set", help="Override one setting: stage.key=value (any number of times)."),
    ] = field(default_factory=list)
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir", help="Folder of the run; default runs/NAME, named as the recipe."
        ),
    ] = None
    keep_previous: Annotated[
        int,
        typer.Option(min=0, help="Earlier results of each stage that are kept in .previous/."),
    ] = 3
    redo: Annotated[bool, typer.Option("--redo", help="Do the work again even if unchanged.")] = (
        False
    )


@dataclass(frozen=True)
class LogOptions:
    """Options of every command: what it logs."""

    quiet: Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details too.")] = False
    # `main` reads it from the command line, for errors before a command is known.
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    def apply(self) -> None:
        """Set the level of the log. Raises UserError for --quiet with --verbose."""
        if self.quiet and self.verbose:
            raise UserError("log-level", "--quiet", "given with --verbose", "give one of them")
        level = logging.WARNING if self.quiet else logging.INFO
        configure_logging(logging.DEBUG if self.verbose else level)


def add_command(app: typer.Typer, name: str, help: str, function: Callable[..., None]) -> None:
    """Register `function` as `ttl NAME`, with the options for logging.

    A parameter that is a dataclass stands for its fields, each an option; the function gets the
    dataclass.
    """
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    groups: dict[str, type[Any]] = {
        one.name: one.annotation
        for one in parameters
        if isinstance(one.annotation, type) and is_dataclass(one.annotation)
    }

    def command(**given: Any) -> None:
        _collect(LogOptions, given).apply()
        function(**{one: _collect(group, given) for one, group in groups.items()}, **given)

    flat = []
    for one in parameters:
        flat += _options_of(groups[one.name]) if one.name in groups else [one]
    # Keyword-only: typer passes keywords, and a required option may follow an optional one.
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=one.KEYWORD_ONLY) for one in (*flat, *_options_of(LogOptions))]
    )
    app.command(name, help=help)(command)


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    found = []
    for one in fields(group):
        made = one.default_factory() if callable(one.default_factory) else one.default
        parameter = inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name]
        )
        found.append(parameter if made is MISSING else parameter.replace(default=made))
    return found


def _collect(group: type[Any], given: dict[str, Any]) -> Any:
    return group(**{one.name: given.pop(one.name) for one in fields(group)})


def load(recipe_path: Path, options: RunOptions) -> tuple[Recipe, Path]:
    """The recipe with its overrides, and the folder of its run."""
    from teenytinyllama.settings.recipe import load_recipe

    recipe = load_recipe(recipe_path, options.overrides)
    return recipe, options.run_dir or Path("runs") / recipe.name


def run_stages(recipe_path: Path, options: RunOptions, names: Sequence[str] | None = None) -> Path:
    """Run the named stages, or all that the recipe names; return the folder of the run."""
    from teenytinyllama.pipeline.runner import PipelineRunner

    recipe, run_dir = load(recipe_path, options)
    runner = PipelineRunner(recipe, run_dir, recipe_path, keep_previous=options.keep_previous)
    runner.run_stages(names, redo=options.redo)
    return run_dir
