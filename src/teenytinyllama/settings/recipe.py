"""The recipe: a TOML file with one section a stage, read and checked as a whole.

Defaults are in the settings modules and nowhere else. Unknown keys, wrong types and values out of
range are errors that name the file, the line and the field.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args
from unicodedata import normalize

from pydantic import BaseModel, Field, ValidationError

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.regular_files import check_regular
from teenytinyllama.settings.base import EnergySettings, Settings, expand_path
from teenytinyllama.settings.data_preparation import CorpusSettings, PackSettings, TokenizerSettings
from teenytinyllama.settings.datasets import Task
from teenytinyllama.settings.post_training import (
    AlignSettings,
    EvaluateSettings,
    FinetuneSettings,
    QuantizeSettings,
    ReportSettings,
)
from teenytinyllama.settings.pretraining import PretrainSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SHIPPED = Path(str(resources.files("teenytinyllama"))) / "recipes"
"""The recipes of the package; in a checkout `recipes/` leads there."""


class NotifySettings(Settings):
    """`[notify]`: who is told how a run ends. Each a shell command, which reads the run's status as
    JSON (and has TTL_EVENT and TTL_RUN in its environment), or a web address, which gets it.
    """

    on_finish: str = ""
    """When all stages are done."""
    on_failure: str = ""
    """When the run stops before: an error, a signal, a full disk."""


class Recipe(Settings):
    """A complete run: general settings, then one section per stage."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the run and, by default, of its folder under `runs/`."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "pt"
    """ISO 639 code of the language; its data is in `languages/<code>/`."""
    energy: EnergySettings = EnergySettings()
    """Energy and money."""
    notify: NotifySettings = NotifySettings()
    """Who is told how a run ends."""
    corpus: CorpusSettings | None = None
    """Raw text to clean documents."""
    tokenizer: TokenizerSettings | None = None
    """Documents to a vocabulary."""
    pack: PackSettings | None = None
    """Documents to token sequences."""
    pretrain: PretrainSettings | None = None
    """Sequences to a base model."""
    evaluate: EvaluateSettings | None = None
    """Model to scores."""
    finetune: FinetuneSettings | None = None
    """Base model to classifiers."""
    align: AlignSettings | None = None
    """Base model to chat model."""
    quantize: QuantizeSettings | None = None
    """Model to small files."""
    report: ReportSettings | None = None
    """Build the report."""

    @property
    def license(self) -> str:
        """The licence that the model shall have; empty: what its text allows."""
        return self.report.license if self.report else ""


CLOSED_BY = {"Unclosed array": "]", "Unclosed inline table": "}"}
LONG_KEY = re.compile(r"(?:[\w-]+[ \t]*\.[ \t]*){60}")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` overrides, whose values are TOML (`a.b=3e-4`).

    A name such as `quickstart` that is no file is that of a shipped recipe. Raises UserError with
    file, line and field for an invalid recipe.
    """
    if not path.is_file():
        path = shipped_recipes().get(str(path), path)
    try:
        check_regular(path)
        text = _text_of(path.read_bytes())
    except OSError as error:
        what = f"the recipe cannot be read ({error.strerror})"
        raise UserError("recipe-missing", str(path), what, _other_recipe(path)) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = f"is not UTF-8, as TOML must be ({error.reason} at byte {error.start})"
        name = shlex.quote(str(path))
        fix = f"iconv -f cp1252 -t utf-8 {name} > a.tmp && mv a.tmp {name}, where it is of Windows"
        raise UserError("recipe-syntax", f"{path}:{line}", what, fix) from error
    if LONG_KEY.search(text):
        what = "has a key of more than 60 parts, which takes hours to read"
        raise UserError("recipe-syntax", str(path), what, "write it flat")
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of more than 4,300 digits
        reason = str(error).split("; use sys.")[0]
        has_backslash = any(word in reason for word in ("hex value", "Unescaped"))
        closes = next((closes for name, closes in CLOSED_BY.items() if name in reason), "")
        advice = f"add the missing , or {closes} before it" if closes else "correct that line"
        fix = advice + (
            ': in "..." write / for each \\, or take single quotes: ' r"'C:\Users\ana'"
            if has_backslash
            else ""
        )
        raise UserError("recipe-syntax", str(path), f"not valid TOML: {reason}", fix) from error
    except RecursionError as error:
        what = "its brackets are nested too deeply"
        raise UserError("recipe-syntax", str(path), what, "write it flat") from error
    for override in overrides:
        _apply(data, override)
    try:
        # JSON mode: lists may become tuples, and nothing else is converted.
        recipe = Recipe.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise _explain(error, path, text, overrides) from error
    return _with_decontamination(recipe)


def _text_of(data: bytes) -> str:
    """The text of a recipe, with the marks that editors on Windows put before it."""
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_wide else "utf-8-sig").replace("\r\n", "\n")


def _other_recipe(path: Path) -> str:
    """The recipe that is named most alike, here or in the package, or how to make one."""
    known = [one.name for one in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, known, n=1)
    if near:
        return f'did you mean "{path.with_name(near[0])}"?'
    near = difflib.get_close_matches(path.stem, shipped_recipes(), n=1)
    if near:
        return f'did you mean "{near[0]}", which `ttl recipes` names?'
    return f"`ttl new --language pt --gpu cpu --hours 1 --out {path}` writes it"


def _with_decontamination(recipe: Recipe) -> Recipe:
    """The recipe with the evaluation's local tasks added to `corpus.decontaminate`."""
    corpus, evaluate = recipe.corpus, recipe.evaluate
    if corpus is None or evaluate is None or not corpus.decontaminate_evaluate:
        return recipe
    named = {task.path for task in corpus.decontaminate}
    # Name and path only: another prompt of a task must not make the corpus stale.
    more = tuple(
        Task(name=task.name, path=task.path)
        for task in evaluate.tasks
        if task.path and task.path not in named and expand_path(task.path)
    )
    tasks = (*corpus.decontaminate, *more)
    return recipe.model_copy(update={"corpus": corpus.model_copy(update={"decontaminate": tasks})})


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    is_key = len(parts) < 60 and all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts)
    if not equals or not is_key:
        raise UserError(
            "set-syntax",
            f"--set {override[:200]}",
            "expected key=value",
            "--set pretrain.num_steps=200",
        )
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()  # a bare word is text: --set language=gl
    here: Any = data
    for number, part in enumerate(parts):
        is_item = isinstance(here, list) and part.isdecimal() and int(part) < len(here)
        if not isinstance(here, dict) and not is_item:
            what, fix = f"{parts[number - 1] if number else key} is not a section", "ttl settings"
            if isinstance(here, list) and here:
                what = f'"{part}" is none of the {len(here)} items of {".".join(parts[:number])}'
                fix = f"--set {'.'.join([*parts[:number], '0', *parts[number + 1 :]])}={value}"
            raise UserError("set-syntax", f"--set {override[:200]}", what, fix)
        place = int(part) if is_item else part
        if number == len(parts) - 1:
            here[place] = parsed
        else:
            here = here[place] if is_item else here.setdefault(place, {})


def _explain(error: ValidationError, path: Path, text: str, overrides: Sequence[str]) -> UserError:
    """The first error of a recipe, and how many more there are."""
    errors = error.errors()
    # A required setting that is misspelt is missing as well.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    names = [str(part) for part in first["loc"]]
    field = ".".join(names)
    from_set = any(_is_from(override, names, text) for override in overrides)
    where = f"--set {field}" if from_set else f"{path}:{_line_of(text, names)}:{field}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(names[:-1])
        what = f'unknown setting, got "{names[-1]}"'
        return UserError("recipe-unknown-key", where, what + more, did_you_mean(names[-1], known))
    got = json.dumps(first["input"], ensure_ascii=False, default=str)
    got = got if len(got) <= 80 else got[:77] + "..."
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    code = "recipe-missing-key" if first["type"] == "missing" else "recipe-value"
    what = message if first["type"] in ("missing", "value_error") else f"{message}, got {got}"
    return UserError(code, where, what + more, _correction(first, field))


def _is_from(override: str, names: list[str], text: str) -> bool:
    """Whether `--set` brought a setting: named it, or a section that the file has not."""
    given = override.partition("=")[0].strip().split(".")
    if names[: len(given)] == given:
        return True
    here: Any = tomllib.loads(text)
    for name in names:
        if not isinstance(here, dict) or name not in here:
            return given[: len(names)] == names
        here = here[name]
    return False


def _correction(error: ErrorDetails, field: str) -> str:
    """What to write in place of a wrong value; the nearest right one where that is plain."""
    name = field.rpartition(".")[2]
    if error["type"] == "missing":
        return f"add {name} = ..."
    near = _nearest(error["type"], error["input"], str(error.get("ctx", {}).get("pattern", "")))
    return f"{name} = {near}" if near else f"correct {field or 'the recipe'}"


def _nearest(kind: str, value: object, pattern: str) -> str:
    """The right value that was meant, as TOML; "" where it cannot be told.

    >>> _nearest("int_type", "1e3", ""), _nearest("float_type", "0,5", "")
    ('1000', '0.5')
    >>> _nearest("bool_type", "True", ""), _nearest("", "pt-BR", "^[a-z]{2}$")
    ('true', '"pt"')
    """
    text = str(value)
    if kind == "bool_type":
        return text.lower() if text.lower() in ("true", "false") else ""
    if kind in ("int_type", "int_from_float", "float_type") and not isinstance(value, bool):
        try:
            number = float(text.replace(",", "."))
        except ValueError:
            return ""
        if kind == "float_type":
            return str(number) if isfinite(number) else ""
        return str(int(number)) if number.is_integer() else ""
    near = nearest_match(text, pattern) if pattern else ""
    return json.dumps(near) if near else ""


def nearest_match(text: str, pattern: str) -> str:
    """The text in plain letters, joined or shortened so that the pattern takes it, or ""."""
    plain = normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    joined = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")
    candidates = (joined, joined.lower(), joined.lower().partition("-")[0])
    return next((one for one in candidates if one and re.search(pattern, one)), "")


def _fields_at(names: Sequence[str]) -> list[str]:
    """Names of a section's settings, for `did you mean`."""
    model: type[BaseModel] = Recipe
    for name in names:
        if name.isdigit():
            continue
        options = [model.model_fields[name].annotation]
        while options:
            option = options.pop()
            if isinstance(option, type) and issubclass(option, BaseModel):
                model = option
                break
            options.extend(get_args(option))
    return list(model.model_fields)


def _line_of(text: str, names: Sequence[str]) -> int:
    """Line of a setting in the file, from 1; where it is absent that of its section, or 1.

    Searched in the text, because `tomllib` keeps no positions.
    """
    section: list[str] = []
    best = 1
    wanted = [name for name in names if not name.isdigit()]
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header:
            section = [part.strip(" \"'") for part in header[1].split(".")]
            if section == wanted[: len(section)]:
                best = number
            continue
        key = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
        if key:
            here = section + [part.strip(" \"'") for part in key[1].split(".")]
            if here == wanted[: len(here)]:
                best = number
            if here == wanted:
                return number
    return best
