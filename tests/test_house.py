"""The house: imports only go down, stages do not know each other, the command line opens fast."""

import ast
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import teenytinyllama

ROOT = Path(teenytinyllama.__file__).parent
FLOORS = {"cli": 5, "stages": 4, "training": 3, "formats": 2}
HEAVY = ("torch", "transformers", "datatrove", "datasets", "numpy", "lm_eval", "pydantic")


def modules():
    return {
        ".".join(("teenytinyllama", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in sorted(ROOT.rglob("*.py"))
    }


def floor(module):
    """5 for the command line down to 1 for the ground."""
    parts = module.split(".")[1:]
    return FLOORS.get(parts[0], 1) if parts else 6


def stage(module):
    return module.split(".")[2] if floor(module) == 4 and module.count(".") >= 2 else None


def imports(module, path, known):
    """Modules of the package that `module` imports anywhere in its file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield from (name for name in (whole if whole in known else base,) if name in known)


def test_a_function_can_be_read_at_a_glance():
    long = []
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 80:
                    long.append(f"{module}.{node.name}: {lines} lines")
    assert long == []


def test_the_front_door_loads_nothing_heavy():
    code = f"import sys, teenytinyllama.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_comes_in_half_a_second():
    command = [sys.executable, "-m", "teenytinyllama.cli", "--help"]
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "run" in done.stdout
    assert min(seconds) < 0.5, seconds  # of the processor: other work may share the machine


def test_extras_that_errors_name_exist():
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    known = project["project"]["optional-dependencies"]
    named = re.compile(r"missing_extra\([^()]*\"([\w-]+)\"\)|teenytinyllama\[([\w,-]+)\]")
    found = {
        extra
        for path in modules().values()
        for match in named.finditer(path.read_text(encoding="utf-8"))
        for extra in (match[1] or match[2]).split(",")
    }
    assert "lora" in found
    assert found <= set(known)
