"""What an error says to type next, typed: it must help.

A row provokes one error and says how its advice is read. Each area adds rows to
`tests/test_advice.py`, and its folder to `COVERED` there: then every code raised in that folder
must have a row, or a reason why nothing can be typed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner

from teenytinyllama.cli.app import app
from teenytinyllama.errors import SeveralErrors, UserError

COMMAND = re.compile(r"`?(ttl [^`]+?)(?:`|,|$| \(| first| writes)")
OPTION = re.compile(r"--[a-z][\w-]*(?:[ =](?!--)[^\s,:;]+)?(?: --[a-z][\w-]* [^\s,:;]+)*")
DID_YOU_MEAN = re.compile(r'did you mean "([^"]+)"\?|use one of: ([^\s,]+)')
ASSIGNMENT = re.compile(r"(\w+) = [^.].*")
ADD_SECTION = re.compile(r"add (\[[\w.]+\]) to the recipe")


@dataclass(frozen=True)
class Advice:
    """One error: the command that provokes it in a folder with these files."""

    code: str
    command: str
    files: Mapping[str, str] = field(default_factory=dict)
    wrong: str = ""
    """What the advice replaces, in the command or in `r.toml`; empty: its options are added."""
    stands_for: Mapping[str, str] = field(default_factory=dict)
    """What the user knows and the advice cannot: `{"FILE": "clean.txt"}`."""
    then: str = ""
    """Code of the next error, where the advice is one step of several; empty: the command works."""
    prepare: Callable[[Path], None] | None = None
    """Makes in the folder what text files cannot say."""
    place: str = ""
    """What the line must name: a file, a line, a field, an option."""
    right: str = ""
    """What only the user knows, in place of `wrong`."""
    restores: str = ""
    """The damaged file of a run or model, where the advice is to make it again."""


def error_of(command: str) -> UserError | None:
    """The error of a command, None where it succeeds; of several the first."""
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    error = done.exception
    if isinstance(error, SeveralErrors):
        return error.errors[0]
    if error is None or isinstance(error, UserError):
        return error
    raise error


def follow(row: Advice, error: UserError) -> str:
    """Do what the error says, as typed, and return the command to give now."""
    fix = error.fix
    for word, value in row.stands_for.items():
        fix = fix.replace(word, value)
    if found := ADD_SECTION.search(fix):
        recipe = Path("r.toml")
        recipe.write_text(recipe.read_text(encoding="utf-8") + f"\n{found[1]}\n", encoding="utf-8")
        return row.command
    if found := DID_YOU_MEAN.search(fix):
        right = found[1] or found[2]
        if row.wrong in row.command:
            return row.command.replace(row.wrong, right)
        recipe = Path("r.toml")
        recipe.write_text(recipe.read_text(encoding="utf-8").replace(row.wrong, right))
        return row.command
    if found := ASSIGNMENT.fullmatch(fix):
        recipe = Path("r.toml")
        line = f"^{found[1]} = .*$"
        text = re.sub(line, fix, recipe.read_text(encoding="utf-8"), flags=re.MULTILINE)
        recipe.write_text(text, encoding="utf-8")
        return row.command
    if found := COMMAND.search(fix):
        assert error_of(found[1]) is None, f"{found[1]} does not work"
        return row.command
    options = OPTION.search(fix)
    assert options, f"nothing to type in: {fix}"
    return f"{row.command.replace(row.wrong, '') if row.wrong else row.command} {options[0]}"
