"""Task files: found, read, and kept from running code.

A task file may come from anywhere. The harness would import what a `!function` names and render
templates outside a sandbox. Here the former is refused, and templates are rendered inside one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import lm_eval.utils
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.task_files import with_includes

TASKS_DIR = Path(__file__).parent / "tasks"
# Between the braces of a template. Outside them, "____" is a blank to fill in.
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_REACHES_INSIDE = re.compile(r"__[A-Za-z]|\|\s*attr\b")


def read_definition(task: Task) -> dict[str, Any]:
    """The task file of a recipe's task: one of ours by name, or a path to another.

    Raises UserError where there is none, where it is not YAML, and where it would run code.
    """
    generated = task.kind in ("storybook", "cloze")
    name = task.definition or (task.kind if generated else task.name)
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
        what = "hf_evaluate in metric_list downloads a metric's code"
        raise UserError("task-code", str(path), what, "name one of the harness's own metrics")
    return config


def _check_no_code(path: Path) -> None:
    """Raise UserError for a foreign task file that would run code, its includes too."""
    for file in with_includes(path):
        found = sorted(file.tags)
        for text in file.texts:
            for expression in _EXPRESSION.findall(text):
                if match := _REACHES_INSIDE.search(expression):
                    found.append(match[0])
        if found:
            what = f"holds {found[0]}, which would run code from the file"
            raise UserError("task-code", str(file.path), what, "write it as a plain template")


_SANDBOX = ImmutableSandboxedEnvironment(
    loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
)
_SANDBOX.filters.update(lm_eval.utils.env.filters)
# The harness asks for the same template at every item: compile it once.
_SANDBOX.from_string = lru_cache(maxsize=256)(_SANDBOX.from_string)  # type: ignore[assignment, method-assign]


@contextmanager
def _sandboxed_templates() -> Iterator[None]:
    """Templates are rendered in the sandbox: the harness reads its environment from a global."""
    before = lm_eval.utils.env
    lm_eval.utils.env = _SANDBOX
    try:
        yield
    finally:
        lm_eval.utils.env = before


def _sandboxed(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def render(*args: Any, **kwargs: Any) -> Any:
        with _sandboxed_templates():
            return method(*args, **kwargs)

    return render


class SandboxedTask(ConfigurableTask):  # type: ignore[misc]
    """A task of the harness whose methods that render templates do so in the sandbox."""

    doc_to_text = _sandboxed(ConfigurableTask.doc_to_text)
    doc_to_target = _sandboxed(ConfigurableTask.doc_to_target)
    doc_to_choice = _sandboxed(ConfigurableTask.doc_to_choice)
    doc_to_image = _sandboxed(ConfigurableTask.doc_to_image)
    doc_to_audio = _sandboxed(ConfigurableTask.doc_to_audio)
    doc_to_prefix = _sandboxed(ConfigurableTask.doc_to_prefix)
    doc_to_decontamination_query = _sandboxed(ConfigurableTask.doc_to_decontamination_query)
    resolve_field = staticmethod(_sandboxed(ConfigurableTask.resolve_field))
