"""Task files: found, read, and kept from running code.

A task file may come from anywhere. The harness would import what a `!function` names and renders
its templates outside a sandbox; here the one is refused and the other done inside.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval.utils
from jinja2 import BaseLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.tasks._yaml_loader import load_yaml

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.task_files import with_includes

TASKS_DIR = Path(__file__).parent / "tasks"
# Between the braces of a template. Outside them, "____" is a blank to be filled.
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_REACHES_INSIDE = re.compile(r"__[A-Za-z]|\|\s*attr\b")


def read_definition(task: Task) -> dict[str, Any]:
    """The task file of a recipe's task: one of ours by name, or a path to another.

    Raises UserError where there is none, where it is no YAML, and where it would run code.
    """
    made = task.kind in ("storybook", "cloze")
    name = task.definition or (task.kind if made else task.name)
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASKS_DIR / f"{name}.yaml"
    path = path.expanduser()
    if not path.is_file():
        known = sorted(p.stem for p in TASKS_DIR.glob("*.yaml"))
        what = f'no task file "{name}"'
        raise UserError("task-unknown", "evaluate.tasks", what, did_you_mean(name, known))
    is_ours = path.parent == TASKS_DIR
    try:
        if not is_ours:
            _check_no_code(path)
        config: dict[str, Any] = load_yaml(path)
    except UserError:
        raise
    except Exception as error:
        what = f"cannot be read as a task file ({(str(error).splitlines() or ['?'])[0]})"
        raise UserError("task-syntax", str(path), what, "correct that file") from error
    metrics = config.get("metric_list")
    if not is_ours and "hf_evaluate" in str(metrics):
        what = "hf_evaluate in metric_list fetches a metric's code"
        raise UserError("task-code", str(path), what, "name a metric of the harness's own")
    return config


def _check_no_code(path: Path) -> None:
    """Raises UserError for a foreign task file that would run code; what it includes counts."""
    for file in with_includes(path):
        found = sorted(file.tags)
        for text in file.texts:
            for expression in _EXPRESSION.findall(text):
                if match := _REACHES_INSIDE.search(expression):
                    found.append(match[0])
        if found:
            what = f"holds {found[0]}, which would run code from the file"
            raise UserError("task-code", str(file.path), what, "write it as a plain template")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Renders as the harness does, but a template reaches no insides of Python. Compiles once."""

    @lru_cache(maxsize=256)  # noqa: B019 (there is one, for as long as the program runs)
    def _compiled(self, source: str) -> Template:
        return super().from_string(source)

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        """A template; the harness asks for the same one at every item."""
        if args or kwargs or not isinstance(source, str):
            return super().from_string(source, *args, **kwargs)
        return self._compiled(source)


def use_sandbox() -> None:
    """From now on the harness renders templates inside a sandbox.

    It has one environment for all tasks, as a global of a module, and offers no other way.
    """
    if not isinstance(lm_eval.utils.env, _Sandbox):
        sandbox = _Sandbox(
            loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
        )
        sandbox.filters.update(lm_eval.utils.env.filters)
        lm_eval.utils.env = sandbox
