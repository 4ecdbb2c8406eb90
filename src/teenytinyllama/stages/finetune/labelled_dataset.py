"""Labelled sets: texts or pairs of texts with one label each, in three splits.

Labels that differ between splits, empty ones and missing columns are errors with file and line.
Texts that are in two splits are counted, and so are labels that a split lacks: both make scores
worth less.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from teenytinyllama.artifacts.decompression import COMPRESSED_SUFFIXES
from teenytinyllama.artifacts.records import (
    RECORD_SUFFIXES,
    TABLE_SUFFIXES,
    Record,
    hub_records,
    read_records,
    suffix_of,
)
from teenytinyllama.errors import UserError, did_you_mean
from teenytinyllama.regular_files import user_path
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.synthetic import dataset as synthetic

logger = logging.getLogger(__name__)


WHOLE_NUMBER = re.compile(r"-?\d+\.0*", re.ASCII)
"""As pandas writes a column of whole numbers in which one is missing."""
SPLITS = ("train", "validation", "test")
OTHER_NAMES = frozenset(("dev", "devel", "val", "valid", "eval"))
"""Of the validation split."""
SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Example:
    """One text, or a pair, and the number of its label (-1 where unknown)."""

    texts: tuple[str, ...]
    label: int


@dataclass
class LabelledData:
    """The three splits of one set and the names of its labels, in the order of their numbers."""

    label_names: list[str]
    splits: dict[str, list[Example]] = field(default_factory=dict)
    columns_not_used: Counter[str] = field(default_factory=Counter)
    """Examples with text in a column that is not read, by column."""

    def fingerprint(self) -> str:
        """A hash of all texts and labels: a checkpoint must have the same."""
        digest = hashlib.sha256(repr(self.label_names).encode())
        for name in SPLITS:
            for one in self.splits[name]:
                digest.update(repr((one.texts, one.label)).encode())
        return digest.hexdigest()[:16]

    def shared_texts(self) -> dict[str, int]:
        """Number of examples in each split whose texts are also in an earlier split.

        A model may have memorised such test texts, or have been chosen by them.
        """
        seen = {name: {one.texts for one in rows} for name, rows in self.splits.items()}
        return {
            f"{later}_texts_in_{earlier}": sum(
                one.texts in seen[earlier] for one in self.splits[later]
            )
            for earlier, later in combinations(SPLITS, 2)
        }

    def missing_labels(self) -> dict[str, list[str]]:
        """Labels of the train split that the other splits have no example of."""
        met = {name: {one.label for one in rows} for name, rows in self.splits.items()}
        return {
            split: [
                name for number, name in enumerate(self.label_names) if number not in met[split]
            ]
            for split in SPLITS[1:]
        }


def read_labelled(task: LabelledSet, language: str = "pt") -> LabelledData:
    """Read one set; a storybook is in `language`. Raises UserError with file and line."""
    raw = {name: list(_rows(task, name, language)) for name in SPLITS if _is_named(task, name)}
    for name, rows in raw.items():
        if not rows:
            raise UserError(
                "split-empty",
                f"finetune.tasks {task.name}",
                f"its {name} split holds no example",
                "give a file with examples, or name another split",
            )
    if "validation" not in raw:
        raw["train"], raw["validation"] = _cut_validation(raw["train"], task)
    names = _label_names(task, [row.label for row in raw["train"]])
    numbers = {name: number for number, name in enumerate(names)}
    data = LabelledData(list(task.label_names) or _class_names(names, raw, task))
    for split in SPLITS:
        data.splits[split] = []
        for row in raw[split]:
            if row.label not in numbers:
                raise UserError(
                    "labels-differ",
                    f"{row.place}:{task.label_column}",
                    f'label "{row.label}" of the {split} split is not among those of the train '
                    f"split: {', '.join(names[:20])}",
                    "use the same labels in all splits",
                )
            data.splits[split].append(Example(row.texts, numbers[row.label]))
            data.columns_not_used.update(row.others)
    return data


def _is_named(task: LabelledSet, split: str) -> bool:
    return task.kind == "storybook" or bool(getattr(task, f"{split}_split"))


class Row(NamedTuple):
    """An example as the data has it, and where."""

    texts: tuple[str, ...]
    label: str
    place: str
    class_names: tuple[str, ...] = ()
    """Names of the label's numbers, where the data has them."""
    others: tuple[str, ...] = ()
    """Columns with text that are not read."""


def _rows(task: LabelledSet, split: str, language: str) -> Iterator[Row]:
    if task.kind == "storybook":
        # A quarter is enough to compare models.
        num_items = task.num_items if split == "train" else max(200, task.num_items // 4)
        made = synthetic.sentiment(
            seed=task.seed,
            num_items=num_items,
            split=split,  # type: ignore[arg-type]
            language=language,
        )
        for number, item in enumerate(made, start=1):
            yield Row((item["text"],), item["label"], f"storybook:{number}")
        return
    for record in _records(task, split, language):
        yield _row(record, task)


def _records(task: LabelledSet, split: str, language: str) -> Iterator[Record]:
    name = getattr(task, f"{split}_split")
    if task.kind == "hub":
        yield from hub_records(
            task.path,
            config=task.config,
            split=name,
            revision=task.revision,
            where=f"finetune.tasks {task.name}",
        )
    else:
        yield from read_records(_file_of(task, name), language)


def _file_of(task: LabelledSet, split: str) -> Path:
    folder = user_path(task.path)
    if not folder.is_dir():
        what = f'"{task.path}" is not a folder with a file for each split'
        raise UserError("task-missing", f"finetune.tasks {task.name}", what, "correct its path")
    found = sorted(p for p in folder.iterdir() if _split_of(p).lower() == split.lower())
    if len(found) == 1:
        return found[0]
    if found:
        what = f"{', '.join(p.name for p in found)}: which is the {split} split?"
        raise UserError("split-ambiguous", str(folder), what, "leave one of them there")
    there = sorted(folder.iterdir())
    names = ", ".join(path.name for path in there[:12]) or "nothing"
    what = f'no file for the split "{split}" ({names} there)'
    fix = _other_split(task, split, {_split_of(path) for path in there} - {""})
    raise UserError("split-missing", str(folder), what, fix)


def _other_split(task: LabelledSet, split: str, there: set[str]) -> str:
    """What to do where a split has no file, by the names of the splits that have one."""
    if shards := sorted(name for name in there if SHARD.search(name)):
        return f'kind = "hub" in place of "files": {shards[0]} is one of several parts'
    setting = next(f"{name}_split" for name in SPLITS if getattr(task, f"{name}_split") == split)
    free = there - {getattr(task, f"{name}_split") for name in SPLITS}
    near = sorted(free & OTHER_NAMES) if setting == "validation_split" else sorted(free)
    if near and (setting != "train_split" or len(free) == 1):
        return f'{setting} = "{near[0]}"'
    if setting == "validation_split":
        return 'validation_split = "", which cuts it from the train split'
    if setting == "test_split" and task.validation_split in there:
        return (
            f'test_split = "{task.validation_split}" with validation_split = "", which cuts the '
            "validation from the train split"
        )
    return f"add {split}.jsonl or {split}.csv"


def _split_of(path: Path) -> str:
    """The name of the split whose file this is; "" for a file of another kind."""
    suffixes = [suffix for suffix in path.suffixes if suffix.lower() in COMPRESSED_SUFFIXES]
    name = path.name.removesuffix(suffixes[-1] if suffixes else "")
    return name[: -len(suffix_of(path))] if suffix_of(path) in RECORD_SUFFIXES else ""


def _row(record: Record, task: LabelledSet) -> Row:
    if record.error:
        raise UserError("record-broken", record.place, record.error, "fix or remove that line")
    texts = tuple(_text(record, name) for name in task.text_columns)
    label = _label(_field(record, task.label_column), f"{record.place}:{task.label_column}")
    class_names = tuple(record.class_names.get(task.label_column, ()))
    read = {*task.text_columns, task.label_column, "id", "idx", "license", "url", "source"}
    others = tuple(
        str(name)
        for name, value in record.fields.items()
        if name not in read and isinstance(value, str) and any(map(str.isalpha, value))
    )
    return Row(texts, label, record.place, class_names, others)


def _label(value: object, where: str) -> str:
    """A label as text: `true`, a name, or the digits of a whole number, however it is written."""
    if isinstance(value, bool):
        return str(value).lower()
    label = str(value).strip() if isinstance(value, str | int | float) else ""
    if WHOLE_NUMBER.fullmatch(label):
        label = label.partition(".")[0]
    if label.startswith("-") and label[1:].isdigit():
        raise UserError(
            "label-value",
            where,
            f"label {label}: -1 marks an example without a label in many sets",
            "remove such lines, or name another split whose labels are published: "
            'test_split = "validation" with validation_split = ""; where it is a class, '
            'write a name such as "negative" in its place',
        )
    if not label or (isinstance(value, float) and not label.isdigit()):
        raise UserError(
            "label-value",
            where,
            f"a label must be a text or a whole number from 0, got {value!r}",
            "write the class in its place, remove that line, or name another column: label_column "
            "of this task",
        )
    return label


def _text(record: Record, name: str) -> str:
    value = _field(record, name)
    if not isinstance(value, str) or not value.strip():
        what = f"expected a text, got {value!r}"
        raise UserError("text-value", f"{record.place}:{name}", what, "correct or remove that line")
    return value.strip()


def _field(record: Record, name: str) -> Any:
    if name not in record.fields:
        known = [str(key) for key in record.fields]
        raise UserError(
            "column-missing",
            f"{record.place}:{name}",
            f"no such column, there are {', '.join(known[:20])}",
            f"set text_columns and label_column of this task; {did_you_mean(name, known)}"
            + (
                ", or add the header where that is data"
                if suffix_of(record.path) in TABLE_SUFFIXES
                else ""
            ),
        )
    return record.fields[name]


def _cut_validation(rows: Sequence[Row], task: LabelledSet) -> tuple[list[Row], list[Row]]:
    """Split off a share of the training rows by a hash of their texts; equal texts stay together.

    A label whose rows would all go to the validation split keeps them in train: a label that is
    never trained on cannot be validated.
    """
    held_out = {row.texts for row in rows if _is_held_out(row.texts, task.validation_fraction)}
    kept = {row.label for row in rows if row.texts not in held_out}
    if rare := sorted({row.label for row in rows} - kept) if kept else []:
        held_out -= {row.texts for row in rows if row.label in rare}
        logger.info(
            f"{task.name}: too rare for a validation split: {', '.join(rare)}; "
            "all its examples stay in the train split"
        )
    train = [row for row in rows if row.texts not in held_out]
    validation = [row for row in rows if row.texts in held_out]
    if not train or not validation:
        raise UserError(
            "split-empty",
            f"finetune.tasks {task.name}",
            f"{len(rows)} training examples are too few to cut a validation split from",
            "give more examples, or a validation file",
        )
    return train, validation


def _is_held_out(texts: tuple[str, ...], fraction: float) -> bool:
    digest = hashlib.sha256("\n".join(texts).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _class_names(names: list[str], raw: dict[str, list[Row]], task: LabelledSet) -> list[str]:
    """Names of the labels: those of a Hub set's class feature, where it has one."""
    classes = sorted({row.class_names for rows in raw.values() for row in rows} - {()})
    if not classes:
        return names
    if len(classes) > 1:
        raise UserError(
            "labels-differ",
            f"finetune.tasks {task.name}",
            f"its splits name their labels differently: {' / '.join(map(', '.join, classes[:3]))}",
            "use the same labels in all splits",
        )
    class_names = dict(enumerate(classes[0]))
    return [class_names.get(int(name), name) if name.isdigit() else name for name in names]


def _label_names(task: LabelledSet, labels: Iterable[str]) -> list[str]:
    """The labels of the training split in the order of their numbers; names where given."""
    found = set(labels)
    are_numbers = all(label.isdigit() for label in found)
    alike = Counter(label.casefold() for label in found)
    if same := sorted(label for label in found if alike[label.casefold()] > 1):
        logger.warning(f"{task.name}: labels that differ in case only: {', '.join(same)}")
    names = sorted(found, key=(lambda s: (int(s), s)) if are_numbers else None)
    if len(names) < 2:
        raise UserError(
            "one-label",
            f"finetune.tasks {task.name}",
            f"its train split has the label {', '.join(names)} only",
            f"check label_column = {task.label_column!r}",
        )
    if task.label_names and len(task.label_names) != len(names):
        raise UserError(
            "label-names",
            f"finetune.tasks {task.name}.label_names",
            f"{len(task.label_names)} names for the {len(names)} labels {', '.join(names[:20])}",
            "give one name for each label, in this order",
        )
    return names
