"""The package as a whole: short functions, a command line that starts fast, extras that exist."""

import ast
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import teenytinyllama

ROOT = Path(teenytinyllama.__file__).parent
HEAVY = ("torch", "transformers", "datatrove", "datasets", "numpy", "lm_eval", "pydantic")


SOURCES = sorted(ROOT.rglob("*.py"))


def test_no_function_is_longer_than_80_lines():
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 80:
                    long.append(f"{path.name} {node.name}: {lines} lines")
    assert long == []


def test_command_line_imports_no_heavy_library():
    code = f"import sys, teenytinyllama.cli.app; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_takes_under_half_a_second():
    command = [sys.executable, "-m", "teenytinyllama.cli", "--help"]
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "run" in done.stdout
    assert min(seconds) < 0.5, seconds  # CPU time: other work may share the machine


def test_extras_named_in_errors_exist():
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    known = project["project"]["optional-dependencies"]
    named = re.compile(r"missing_extra\([^()]*\"([\w-]+)\"\)|teenytinyllama\[([\w,-]+)\]")
    found = {
        extra
        for path in SOURCES
        for match in named.finditer(path.read_text(encoding="utf-8"))
        for extra in (match[1] or match[2]).split(",")
    }
    assert "lora" in found
    assert found <= set(known)
