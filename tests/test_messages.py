"""Commands and options that messages and pages name exist on the command line."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

import teenytinyllama
from teenytinyllama.cli.app import app

ROOT = Path(teenytinyllama.__file__).parent
COMMANDS = {
    name: {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    for name, command in get_command(app).commands.items()
}
ROOT_OPTIONS = {flag for one in get_command(app).params for flag in one.opts} | {"--help"}
COMMAND = re.compile(r"(?<![\w./-])(?<!another )ttl +([a-z][\w-]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# `ttl ...` in code of a page: at the start of a line or of inline code.
IN_PAGE = re.compile(r"(?:^|`)(?:\.venv/bin/)?(ttl [^`\n]+)", re.MULTILINE)
# Of `accelerate launch`, zstd, pandoc and LibreOffice.
FOREIGN = {"--config_file", "--memory", "--wrap", "--headless", "--convert-to"}
FOREIGN |= {"--sandbox", "--from", "--to"}
# What `ttl export` prints for mlx_lm, llama-server, vllm.
FOREIGN |= {"--hf-path", "--mlx-path", "--prompt", "--model", "--jinja"}
FOREIGN |= {"--served-model-name", "--max-model-len"}


def texts_of(source):
    """Every string literal as (line, text), the holes of f-strings as {}."""
    inside = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
            parts = (str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(getattr(node, "value", None), str) and id(node) not in inside:
            yield node.lineno, node.value


def unknown_in(text):
    """Commands and options in the text that do not exist."""
    named = COMMAND.findall(text)
    unknown = [f"ttl {name}" for name in named if name not in COMMANDS]
    known = set().union(*(COMMANDS.get(name, ()) for name in named or COMMANDS)) | ROOT_OPTIONS
    return unknown + [flag for flag in OPTION.findall(text) if flag not in known]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("run `ttl corpus r.toml --redo` first", []),
        ("run `ttl corpus r.toml --trade-off`", ["--trade-off"]),
        ("see `ttl docs`", ["ttl docs"]),
        ("choose another --run-dir", []),
        ("choose another --folder-of-run", ["--folder-of-run"]),
        ("`ttl {} {}`", []),
        ("another ttl is using it", []),
    ],
)
def test_the_check_itself(text, unknown):
    assert unknown_in(text) == unknown


def test_messages_name_existing_commands_and_options():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, text in texts_of(path.read_text(encoding="utf-8"))
        for name in unknown_in(text)
        if name not in FOREIGN
    ]
    assert found == []


def test_pages_name_existing_commands_and_options():
    project = ROOT.parents[1]
    pages = [*project.glob("*.md"), *(project / "docs").rglob("*.md")]
    named = [
        (page.name, command)
        for page in pages
        for command in IN_PAGE.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(named) > 30
    assert [(page, name) for page, text in named for name in unknown_in(text)] == []
