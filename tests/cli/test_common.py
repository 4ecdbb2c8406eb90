"""A command gets the options of its dataclasses, and those of the log."""

from dataclasses import dataclass, field
from typing import Annotated

import typer
from typer.testing import CliRunner

from teenytinyllama.cli.common import add_command


@dataclass(frozen=True)
class Colours:
    first: Annotated[str, typer.Option("--first", help="The first.")]
    more: Annotated[list[str], typer.Option("--more")] = field(default_factory=list)


def invoke(*words: str) -> tuple[int, list[object]]:
    given: list[object] = []

    def paint(wall: Annotated[str, typer.Argument()], colours: Colours, coats: int = 1) -> None:
        given.extend((wall, colours, coats))

    app = typer.Typer()
    add_command(app, "paint", "Paint a wall.", paint)
    return CliRunner().invoke(app, list(words)).exit_code, given


def test_fields_of_a_dataclass_are_options() -> None:
    words = ("north", "--first", "red", "--more", "green", "--more", "blue", "--coats", "2")
    assert invoke(*words) == (0, ["north", Colours("red", ["green", "blue"]), 2])
    assert invoke("north", "--first", "red") == (0, ["north", Colours("red"), 1])


def test_a_field_without_default_is_required() -> None:
    assert invoke("north") == (2, [])


def test_every_command_takes_the_options_of_the_log() -> None:
    assert invoke("north", "--first", "red", "--quiet")[0] == 0
    assert invoke("north", "--first", "red", "--debug", "--verbose")[0] == 0
