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
    seconds = []
    while len(seconds) < 20 and min(seconds, default=1.0) >= 0.5:  # busy caches slow a start down
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "teenytinyllama.cli", "--help"]
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


def test_lock_has_hashes_and_the_versions_of_the_constraints():
    repository = ROOT.parents[1]
    lock = (repository / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)==([^\s;]+)((?:[^\n]*\\\n)+[^\n]*)", lock, re.M)
    assert len(entries) == len(re.findall(r"^\w", lock, re.M)) > 100
    assert all("--hash=sha256:" in rest for _, _, rest in entries)
    assert "://" not in lock  # any index that has these files will do
    pinned = dict(
        line.split("==")
        for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    other = [name for name, version, _ in entries if pinned.get(name, version) != version]
    assert other == []  # make lock
    assert "torch" not in {name for name, _, _ in entries}


def test_lock_has_every_requirement_of_dev():
    repository = ROOT.parents[1]
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, wanted, left = project["optional-dependencies"], set(), ["dev"]
    requirements = list(project["dependencies"])
    while left:
        for requirement in extras[left.pop()]:
            own = re.fullmatch(r"teenytinyllama\[([\w,-]+)\]", requirement)
            left += own[1].split(",") if own else []
            requirements += [] if own else [requirement]
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)[0]
        wanted.add(re.sub(r"[-_.]+", "-", name).lower())
    lock = (repository / "requirements.lock").read_text(encoding="utf-8")
    assert wanted - {"torch"} <= set(re.findall(r"^([\w.-]+)==", lock, re.M))  # make lock
