"""`ttl settings`: the reference of settings and commands, made from the code itself."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.recipe import Recipe

HEAD = "<!-- Made by `ttl settings --markdown`; do not edit: change settings/. -->"
CLI_HEAD = "<!-- Made by `ttl settings --commands`; do not edit: change cli/. -->"


def settings_rows(
    model: type[BaseModel] = Recipe, prefix: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    """Every setting: its full name, its type, its default, and what it means."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = _section_of(field.annotation)
        if inner is not None:
            default = None if field.is_required() else field.default
            yield path, "section", "", field.description or ""
            overrides = default if isinstance(default, BaseModel) else None
            for row in settings_rows(inner[0], f"{path}{inner[1]}."):
                yield _with_default(row, overrides, f"{path}{inner[1]}.")
            continue
        shown = "**required**" if field.is_required() else _shown(field.default)
        yield path, _type_name(field.annotation), shown, field.description or ""


def _with_default(
    row: tuple[str, str, str, str], section: BaseModel | None, prefix: str
) -> tuple[str, str, str, str]:
    """The row with the default that its section is given where it is used."""
    value: Any = section
    for part in row[0].removeprefix(prefix).split("."):
        value = getattr(value, part, PydanticUndefined)
    if section is None or value is PydanticUndefined or isinstance(value, BaseModel):
        return row
    return row[0], row[1], _shown(value), row[3]


def _section_of(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """The settings class behind an annotation, and `[]` where there may be many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    many = "[]" if get_origin(annotation) is tuple else ""
    for option in get_args(annotation):
        found = _section_of(option)
        if found is not None:
            return found[0], many
    return None


def _type_name(annotation: Any) -> str:
    origin, options = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'"{option}"' for option in options)
    if origin is tuple:
        return f"list of {_type_name(options[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(option) for option in options if option is not type(None))
    if origin is not None and options:
        return _type_name(options[0])
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def settings_text(stage: str = "") -> str:
    """Every setting, or those of one section, on two lines each. Raises UserError for no such."""
    rows = [row for row in settings_rows() if not stage or row[0].split(".")[0] == stage]
    if not rows:
        names = sorted({path.split(".")[0] for path, *_ in settings_rows()})
        raise UserError(
            "stage-unknown", "ttl settings", f'no "{stage}"', did_you_mean(stage, names)
        )
    return "".join(
        f"{path}{f' = {default}' if default else ''}\n    {words}\n"
        for path, _, default, words in rows
    )


def settings_markdown() -> str:
    """`docs/settings.md`."""
    lines = [
        HEAD,
        "",
        "# Every setting",
        "",
        "A recipe is a TOML file; its sections are the stages, in order. What is not written has",
        "the default below. `--set stage.key=value` overrides one setting for one command.",
    ]
    section = None
    for path, kind, default, words in settings_rows():
        top = path.split(".")[0]
        head = top if kind == "section" or "." in path else "general"
        if head != section:
            section = head
            title = "General" if head == "general" else f"`[{head}]`"
            lines += ["", f"## {title}", ""]
            if kind == "section" and path == top:
                lines += [words, ""]
            lines += ["| setting | type | default | what it means |", "|---|---|---|---|"]
            if kind == "section" and path == top:
                continue
        cells = (f"`{path}`", kind, default, words)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands_markdown(app: typer.Typer) -> str:
    """`docs/cli.md`: the help of every command, as it prints at 100 columns."""
    command: Any = typer.main.get_command(app)
    lines = [CLI_HEAD, "", "# The command line", ""]
    lines += ["Exit codes: 0 done, 2 your input is wrong, 75 stopped (the same command resumes),"]
    lines += ["1 a bug.", ""]
    for name, sub in command.commands.items():
        lines += [f"## ttl {name}", "", sub.help or "", ""]
        usage = " ".join(p.metavar or p.human_readable_name for p in _arguments(sub))
        lines += ["```text", f"ttl {name} {usage}".rstrip() + " [OPTIONS]", "```", ""]
        lines += ["| option | what it does | default |", "|---|---|---|"]
        for parameter in sub.params:
            flags = ", ".join((*parameter.opts, *parameter.secondary_opts))
            if parameter in _arguments(sub):
                flags = parameter.metavar or parameter.human_readable_name
            default = parameter.default
            shown = "" if default in (None, False, [], "", ()) or callable(default) else default
            words = getattr(parameter, "help", "") or ""
            lines.append(f"| `{flags}` | {_cell(words)} | {_cell(str(shown))} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _arguments(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "argument"]
