"""Where text, conversations, labelled sets and evaluation tasks come from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.settings.base import MAX_INTEGER, Count, Positive, Settings, expand_path

# No zero before other digits: "01" is a code, and not the number 1.
NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?", re.ASCII)


class Source(Settings):
    """One place that text, conversations, labelled items or questions are read from."""

    kind: Literal["storybook", "files", "hub"]
    """`storybook`: invented by this package from a seed; `files`: local files; `hub`: a Hugging
    Face dataset by id, or a local folder in the same layout."""
    name: str = ""
    """Name in counts and reports; default: the kind, the file's name, or the dataset's id."""
    preset: str = ""
    """`hub`: a named source of the language (`languages/<code>/sources.toml`): its id, fields and
    licence. A `path` given with it names a local copy."""
    path: str = ""
    """`files`: a file, a folder or a glob (`**` works). `hub`: a dataset's id or local folder."""
    language: Annotated[str, Field(pattern=r"^([a-z]{2,3})?$")] = ""
    """`corpus`: ISO 639 code of a helper language, by whose rules the source is filtered; empty:
    the recipe's. `thresholds` and `stop_words` of `[corpus.filters]` are for the recipe's alone."""
    license: str = ""
    """Licence of the text (SPDX). A `license` field of a record overrides it."""
    origin: str = ""
    """Where the text comes from: a URL or a citation, for the cards."""
    shape: Literal["text", "conversation"] = "text"
    """`conversation`: each record is a dialogue or an instruction with its answer, in one of the
    common layouts (`messages`, `conversations`, `instruction` and `output`, `prompt` and
    `completion`, `question` and `answer`)."""
    question_key: str = ""
    """For conversations with other field names: the field of the question ..."""
    context_key: str = ""
    """... of a text that the question is about, appended to it ..."""
    answer_key: str = ""
    """... and of the answer; `answer{label}` takes the number from the field `label`."""
    only: dict[str, str | bool | int | float] = {}
    """Only records with these values in these fields are used; others are counted and dropped.
    `true`, `True` and 1 are equal, and so are 1 and 1.0; other texts are equal letter by letter."""
    text_key: str = "text"
    """Field of a record's text (`.jsonl`, `.parquet`, Hub)."""
    id_key: str = "id"
    """Field of a record's id, if any."""
    url_key: str = "url"
    """Field of a record's URL, if any."""
    encoding: str = ""
    """`corpus`: encoding of text files that are not UTF-8, such as `cp1251`; empty: detected, and a
    file whose encoding is not certain is quarantined."""
    config: str = ""
    """`hub`: configuration (subset) of the dataset."""
    split: str = "train"
    """`hub`: split to read."""
    revision: str = ""
    """`hub`: commit of the dataset, 40 hexadecimal digits, so that the text cannot change."""
    num_documents: Count = 4000
    """`storybook`: how many documents, conversations or items to make."""
    seed: Count = 0
    """`storybook`: seed of its world; use the same seed in all stages of a run."""

    @model_validator(mode="after")
    def _complete(self) -> Source:
        if self.kind != "storybook" and not self.path and not self.preset:
            raise ValueError(f'a source of kind "{self.kind}" needs a path')
        if self.encoding:
            try:
                "a".encode(self.encoding)  # some codecs are of bytes, one of nothing
            except (LookupError, ValueError) as error:
                raise ValueError(f'no encoding is called "{self.encoding[:80]}"') from error
        return self

    @property
    def title(self) -> str:
        """Name in counts and reports."""
        path = Path(self.path)
        while path.name and set(path.name) & set("*?["):
            path = path.parent
        return self.name or self.preset or path.name or self.kind

    def selects(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the values that `only` requires."""
        return all(
            key in record and same_value(record[key], value) for key, value in self.only.items()
        )

    def local_paths(self) -> list[Path]:
        """Local files that the source names, sorted; empty where there are none."""
        return expand_path(self.path) if self.kind != "storybook" else []


def same_value(one: object, other: object) -> bool:
    """Whether two values are equal, however a format spells them: numbers, booleans, texts.

    >>> [same_value(True, value) for value in ("true", "True", "1", 1.0, "yes")]
    [True, True, True, True, False]
    >>> same_value("1.0", 1), same_value("01", 1), same_value(None, "None"), same_value(None, "")
    (True, False, False, True)
    """
    return _canonical(one) == _canonical(other)


def _canonical(value: object) -> object:
    text = "" if value is None else str(value)
    if text.lower() in ("true", "false"):
        return Decimal(text.lower() == "true")
    return Decimal(text) if NUMBER.fullmatch(text) else text


def _refuse_without_effect(
    of: Task | LabelledSet, kinds: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """Raise ValueError for a changed setting that this kind does not use."""
    for name in names if of.kind not in kinds else ():
        value, default = getattr(of, name), type(of).model_fields[name].default
        if value != default:
            raise ValueError(
                f'{name} = {value} has no effect for kind "{of.kind}", whose items are all used; '
                f"it is for {' and '.join(kinds)}"
            )


class Task(Settings):
    """One multiple-choice task, labelled set, or suite of tasks."""

    name: str
    """Name in scores and folders; for a `suite`, which one."""
    kind: Literal["storybook", "files", "hub", "suite", "cloze"] = "files"
    """Where the items come from. `suite`: several tasks at once, as `evaluate` lists them;
    `cloze`: made from the run's own held-out text, in any language: choose the last word of a
    sentence from four."""
    path: str = ""
    """`files`: a folder with train/validation/test in .jsonl, .json, .csv, .tsv or .parquet, or one
    such file for all; `hub`: the dataset's id.
    `suite`: the folder that holds one folder per task; empty: everything from the Hub."""
    definition: str = ""
    """`evaluate`: a task file in lm-evaluation-harness's format: one of ours by name, or the path
    of a .yaml; default: the task's name."""
    num_fewshot: Annotated[int, Field(ge=-1, le=MAX_INTEGER)] = -1
    """`evaluate`: solved examples before each question; -1: as the task file says."""
    num_items: Count = 400
    """`storybook`, `cloze`: items to make (of each split)."""
    seed: Count = 0
    """`storybook`: seed of its world; `cloze`: seed of the choices."""

    @model_validator(mode="after")
    def _complete(self) -> Task:
        _refuse_without_effect(self, ("storybook", "cloze"), ("num_items", "seed"))
        return self

    def local_paths(self) -> list[Path]:
        """Local files that the task names, sorted; empty where there are none."""
        named = [name for name in (self.path, self.definition) if name]
        return sorted({path for name in named for path in expand_path(name)})


class LabelledSet(Settings):
    """One labelled set of `[finetune]`: texts or pairs of texts, with one label each."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name in scores and folders."""
    kind: Literal["storybook", "files", "hub"] = "files"
    """Where the examples come from."""
    path: str = ""
    """`files`: a folder with one .jsonl, .csv, .tsv, .json or .parquet for each split, named as
    the split; `hub`: the dataset's id, or a local folder in the same layout."""
    config: str = ""
    """`hub`: configuration (subset) of the dataset."""
    revision: str = ""
    """`hub`: commit of the dataset, 40 hexadecimal digits, so that the texts cannot change."""
    text_columns: tuple[str, ...] = Field(("text",), min_length=1, max_length=2)
    """Column of the text, or the two columns of a pair."""
    label_column: str = "label"
    """Column of the label: a word, a number from 0, or a boolean."""
    label_names: tuple[str, ...] = ()
    """Names of the labels, in the order of their numbers or alphabetically; empty: as in the data,
    or as a Hub dataset names its numbers."""
    train_split: Annotated[str, Field(min_length=1)] = "train"
    """Split to learn from."""
    validation_split: str = "validation"
    """Split that the best epoch is chosen on; empty: a share of the train split."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the train split for validation, where `validation_split` is empty; chosen by a hash
    of the text. A label too rare for both splits stays in train."""
    test_split: Annotated[str, Field(min_length=1)] = "test"
    """Split that is scored once, at the end."""
    num_items: Positive = 2000
    """`storybook`: training examples; validation and test get a quarter each."""
    seed: Count = 0
    """`storybook`: seed of its world."""

    @model_validator(mode="after")
    def _complete(self) -> LabelledSet:
        if self.kind != "storybook" and not self.path:
            raise ValueError(f'a labelled set of kind "{self.kind}" needs a path')
        _refuse_without_effect(self, ("storybook",), ("num_items", "seed"))
        if self.test_split in (self.train_split, self.validation_split):
            raise ValueError(f'test_split = "{self.test_split}" is train_split or validation_split')
        if self.validation_split == self.train_split:
            raise ValueError(
                f'validation_split = "{self.validation_split}" is train_split; '
                'validation_split = "" cuts a share of it'
            )
        if self.label_column in self.text_columns and self.kind != "storybook":
            raise ValueError(f'label_column = "{self.label_column}" is read as a text too')
        return self

    def local_paths(self) -> list[Path]:
        """Local files that the set names, sorted; empty where there are none."""
        return expand_path(self.path) if self.kind != "storybook" else []


def with_presets(sources: Sequence[Source], language: str, where: str) -> tuple[Source, ...]:
    """The sources with the fields of their presets; fields that the recipe gives take precedence.

    `where`: the setting that lists the sources. Raises UserError for an unknown preset.
    """
    return tuple(
        _filled(source, f"{where}.{index}", source.language or language)
        if source.preset
        else source
        for index, source in enumerate(sources)
    )


def presets_of(language: str) -> dict[str, dict[str, Any]]:
    """The named sources of a language."""
    path = resources.files("teenytinyllama.languages") / language / "sources.toml"
    return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}


def _filled(source: Source, where: str, language: str) -> Source:
    known = presets_of(language)
    if source.preset not in known:
        raise UserError(
            "preset-unknown",
            f"{where}.preset",
            f'the language "{language}" has no source named "{source.preset}"',
            did_you_mean(source.preset, known) if known else "give kind, path and license instead",
        )
    given = {name: getattr(source, name) for name in source.model_fields_set}
    return Source(**{"name": source.preset, **known[source.preset], **given})
