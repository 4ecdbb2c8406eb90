"""Labelled sets: what is read, and which faults stop with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.recipe import LabelledSet
from teenytinyllama.stages.finetune.labelled import LabelledData, read_labelled

Rows = list[dict[str, Any]]
ROWS: Rows = [{"text": f"texto {n}", "label": "ab"[n % 2]} for n in range(40)]


def folder_with(tmp_path: Path, **splits: Rows) -> Path:
    for name, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path


def read(tmp_path: Path, **settings: Any) -> LabelledData:
    return read_labelled(LabelledSet(name="t", path=str(tmp_path), **settings))


def test_csv_and_jsonl_pairs_with_named_labels(tmp_path: Path) -> None:
    table = "premise,hypothesis,entailment\nA,B,1\nC,D,0\n"
    (tmp_path / "train.csv").write_text(table)
    (tmp_path / "validation.csv").write_text(table)
    (tmp_path / "test.jsonl").write_text('{"premise": "A", "hypothesis": "B", "entailment": 1}\n')
    data = read(
        tmp_path,
        text_columns=("premise", "hypothesis"),
        label_column="entailment",
        label_names=("não", "sim"),
    )
    assert data.label_names == ["não", "sim"]
    assert [(one.texts, one.label) for one in data.splits["train"]] == [
        (("A", "B"), 1),
        (("C", "D"), 0),
    ]
    assert data.num_test_texts_in_train() == 1


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    rows = [{"text": str(n), "label": n} for n in (10, 2, 1)]
    data = read(folder_with(tmp_path, train=rows, validation=rows, test=rows))
    assert data.label_names == ["1", "2", "10"]


def test_the_storybook_is_balanced() -> None:
    data = read_labelled(LabelledSet(name="s", kind="storybook", num_items=20))
    assert data.label_names == ["negativo", "positivo"]
    assert [len(data.splits[s]) for s in ("train", "validation", "test")] == [20, 200, 200]
    assert sum(one.label for one in data.splits["test"]) == 100


def test_a_missing_validation_split_is_cut_from_train_by_text(tmp_path: Path) -> None:
    rows = ROWS * 2
    folder_with(tmp_path, train=rows, validation=ROWS[:4])
    data = read(tmp_path, test_split="validation", validation_split="", validation_fraction=0.3)
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes["train"] + sizes["validation"] == 80
    assert sizes["test"] == 4
    kept_out = {one.texts for one in data.splits["validation"]}
    assert kept_out
    assert not kept_out & {one.texts for one in data.splits["train"]}


FAULTS: list[tuple[dict[str, Rows], dict[str, Any], str]] = [
    ({"train": ROWS, "validation": ROWS}, {}, "split-missing"),
    ({"train": ROWS, "validation": ROWS, "test": []}, {}, "its test split holds no example"),
    (
        {"train": ROWS, "validation": ROWS, "test": [{"text": "x", "label": "c"}]},
        {},
        r'test\.jsonl:1:label - label "c" of the test split is not among those of the train',
    ),
    (
        {"train": [{"text": "x", "lable": "a"}], "validation": ROWS, "test": ROWS},
        {},
        'train.jsonl:1:label - no such column.*did you mean "lable"',
    ),
    (
        {"train": [*ROWS, {"text": None, "label": "a"}], "validation": ROWS, "test": ROWS},
        {},
        r"train\.jsonl:41:text - expected a text, got None",
    ),
    (
        {"train": [*ROWS, {"text": "x", "label": 0.5}], "validation": ROWS, "test": ROWS},
        {},
        r"train\.jsonl:41:label - a label must be a text or a number",
    ),
    (
        {"train": [*ROWS, {"text": "x", "label": -1}], "validation": ROWS, "test": ROWS},
        {},
        "got -1",
    ),
    (
        {"train": ROWS[::2], "validation": ROWS[::2], "test": ROWS[::2]},
        {},
        "has the label a only",
    ),
    (
        {"train": ROWS, "validation": ROWS, "test": ROWS},
        {"label_names": ("um",)},
        "1 names for the 2 labels a, b",
    ),
    (
        {"train": ROWS[:2]},
        {"validation_split": "", "test_split": "train2", "validation_fraction": 0.01},
        "split-missing",
    ),
]


@pytest.mark.parametrize(("splits", "settings", "message"), FAULTS)
def test_a_fault_is_one_line_with_its_place(
    tmp_path: Path, splits: dict[str, Rows], settings: dict[str, Any], message: str
) -> None:
    folder_with(tmp_path, **splits)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, **settings)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_broken_line_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": \n')
    with pytest.raises(UserError, match=r"record-broken.*train\.jsonl:1"):
        read(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read(tmp_path / "no")


def test_the_test_split_cannot_be_learnt_from() -> None:
    with pytest.raises(ValueError, match="learnt from or chosen by"):
        LabelledSet(name="t", path="x", test_split="validation")


def test_the_label_cannot_be_read_as_a_text() -> None:
    with pytest.raises(ValueError, match='label_column = "label" is read as a text too'):
        LabelledSet(name="t", path="x", text_columns=("text", "label"))
