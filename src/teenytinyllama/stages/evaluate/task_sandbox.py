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
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.task_files import with_includes
from teenytinyllama.stages.evaluate.right_choice import (
    TargetKind,
    choice_texts,
    choose,
    read_target,
)

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
    path = user_path(path)
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
    """A task of the harness whose methods that render templates do so in the sandbox.

    A rendered text stays a text: the harness turns digits into numbers, and then into places among
    the choices. The right choice of a multiple-choice task is always given as its index.
    """

    target_kind: TargetKind = None

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> Any:
        """The prompt."""
        template = self.config.doc_to_text if doc_to_text is None else doc_to_text
        return self._rendered(doc, template)

    def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> Any:
        """Index of the right choice where it can be read, else what the task file gives."""
        found = self.raw_target(doc, doc_to_target)
        if self.config.doc_to_choice is None:
            is_number = isinstance(found, int | float) and not isinstance(found, bool)
            return str(found) if is_number else found
        if isinstance(self.config.doc_to_target if doc_to_target is None else doc_to_target, int):
            return found  # a place in the task file itself, the same for all items
        choices = self.doc_to_choice(doc)
        if not isinstance(choices, list):
            return found
        index = choose(read_target(found, choices), self.target_kind)
        return found if index is None else index

    def raw_target(self, doc: Any, doc_to_target: Any = None) -> Any:
        """The right answer as the task file gives it."""
        template = self.config.doc_to_target if doc_to_target is None else doc_to_target
        return self._rendered(doc, template)

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> Any:
        """The choices; numbers among them as text."""
        return choice_texts(self.raw_choices(doc, doc_to_choice))

    def raw_choices(self, doc: Any, doc_to_choice: Any = None) -> Any:
        """The choices as the task file gives them."""
        with _sandboxed_templates():
            return super().doc_to_choice(doc, doc_to_choice)

    def _rendered(self, doc: Any, template: Any) -> Any:
        """A field's value, a rendered template, or what a function or constant gives."""
        if isinstance(template, str):
            if template in self.features:
                return doc[template]
            with _sandboxed_templates():
                return lm_eval.utils.apply_template(template, doc)
        return template(doc) if callable(template) else template

    doc_to_image = _sandboxed(ConfigurableTask.doc_to_image)
    doc_to_audio = _sandboxed(ConfigurableTask.doc_to_audio)
    doc_to_prefix = _sandboxed(ConfigurableTask.doc_to_prefix)
    doc_to_decontamination_query = _sandboxed(ConfigurableTask.doc_to_decontamination_query)
    resolve_field = staticmethod(_sandboxed(ConfigurableTask.resolve_field))
