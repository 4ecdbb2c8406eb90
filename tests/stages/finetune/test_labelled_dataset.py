"""Labelled sets: what is read, and which errors stop with which message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import LabelledSet
from teenytinyllama.stages.finetune import labelled_dataset
from teenytinyllama.stages.finetune.labelled_dataset import (
    Example,
    LabelledData,
    Row,
    read_labelled,
)

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
    assert data.shared_texts() == {
        "validation_texts_in_train": 2,
        "test_texts_in_train": 1,
        "test_texts_in_validation": 1,
    }
    assert data.missing_labels() == {"validation": [], "test": ["não"]}


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    rows = [{"text": str(n), "label": n} for n in (10, 2, 1)]
    data = read(folder_with(tmp_path, train=rows, validation=rows, test=rows))
    assert data.label_names == ["1", "2", "10"]


def test_the_storybook_is_balanced() -> None:
    data = read_labelled(LabelledSet(name="s", kind="storybook", num_items=20))
    assert data.label_names == ["negativo", "positivo"]
    assert [len(data.splits[s]) for s in ("train", "validation", "test")] == [20, 200, 200]
    assert sum(one.label for one in data.splits["test"]) == 100


def test_a_missing_validation_split_is_taken_from_train_by_text(tmp_path: Path) -> None:
    rows = ROWS * 2
    folder_with(tmp_path, train=rows, validation=ROWS[:4])
    data = read(tmp_path, test_split="validation", validation_split="", validation_fraction=0.3)
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes["train"] + sizes["validation"] == 80
    assert sizes["test"] == 4
    held_out = {one.texts for one in data.splits["validation"]}
    assert held_out
    assert not held_out & {one.texts for one in data.splits["train"]}


def test_a_rare_label_stays_in_the_train_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The hash puts this text into the validation split, and with it all that the label has.
    rare = {"text": "texto 2", "label": "rara"}
    rows = [*ROWS[:2], rare, *ROWS[3:], {"text": "texto 2", "label": "a"}]
    folder_with(tmp_path, train=rows, test=ROWS)
    fraction = {"validation_split": "", "validation_fraction": 0.5}
    data = read(tmp_path, **fraction)
    assert "too rare for a validation split: rara; all" in capsys.readouterr().err
    assert data.label_names == ["a", "b", "rara"]
    train, validation = data.splits["train"], data.splits["validation"]
    assert len(train) + len(validation) == len(rows)
    # Both rows of its text are on one side, and the rows keep their order.
    assert [one.texts for one in train if one.texts == ("texto 2",)] == [("texto 2",)] * 2
    places = [int(one.texts[0].split()[1]) for one in train[:-1]]
    assert places == sorted(places)
    assert data.missing_labels() == {"validation": ["rara"], "test": ["rara"]}
    # Without it the same text is validated on.
    folder_with(tmp_path, train=ROWS, test=ROWS)
    assert Example(("texto 2",), 0) in read(tmp_path, **fraction).splits["validation"]


def test_yes_and_no_are_labels(tmp_path: Path) -> None:
    rows = [{"text": str(n), "label": n % 2 == 0} for n in range(4)]
    table = "text,label\n0,true\n1,false\n"
    folder_with(tmp_path, train=rows, validation=rows)
    (tmp_path / "test.csv").write_text(table)
    data = read(tmp_path)
    assert data.label_names == ["false", "true"]
    assert [one.label for one in data.splits["train"]] == [1, 0, 1, 0]
    assert [one.label for one in data.splits["test"]] == [1, 0]


@pytest.mark.parametrize("labels", [(0.0, 1.0), ("0.0", "1.0"), ("0", "1."), (0, 1)])
def test_whole_numbers_are_labels_however_they_are_written(
    tmp_path: Path, labels: tuple[Any, Any]
) -> None:
    rows = [{"text": f"texto {n}", "label": labels[n % 2]} for n in range(8)]
    data = read(folder_with(tmp_path, train=rows, validation=rows, test=rows))
    assert data.label_names == ["0", "1"]
    assert [one.label for one in data.splits["train"][:2]] == [0, 1]


@pytest.mark.parametrize("label", [-1, -1.0, "-1", "-1.0"])
def test_a_split_without_labels_names_what_to_type(tmp_path: Path, label: object) -> None:
    unknown = [{"text": "x", "label": label}]
    folder_with(tmp_path, train=ROWS, validation=ROWS[:9], test=unknown)
    with pytest.raises(UserError, match='test_split = "validation" with validation_split = ""'):
        read(tmp_path)
    helped = read(tmp_path, test_split="validation", validation_split="")
    assert len(helped.splits["test"]) == 9


def test_columns_with_text_that_is_not_read_are_counted(tmp_path: Path) -> None:
    rows = [{**row, "title": "Um título", "id": "a"} for row in ROWS]
    data = read(folder_with(tmp_path, train=rows, validation=ROWS, test=ROWS))
    assert dict(data.columns_not_used) == {"title": 40}


@pytest.mark.parametrize(
    ("files", "fix"),
    [
        (("train", "dev", "test"), {"validation_split": "dev"}),
        (("train", "val", "test"), {"validation_split": "val"}),
        (("train", "test"), {"validation_split": ""}),
        (("train", "validation"), {"test_split": "validation", "validation_split": ""}),
        (("train", "validation", "heldout"), {"test_split": "heldout"}),
        (("dados", "validation", "test"), {"train_split": "dados"}),
    ],
)
def test_a_split_without_a_file_names_what_to_type(
    files: tuple[str, ...], fix: dict[str, str], tmp_path: Path
) -> None:
    folder_with(tmp_path, **dict.fromkeys(files, ROWS))
    with pytest.raises(UserError, match="split-missing") as error:
        read(tmp_path)
    assert all(f'{name} = "{value}"' in error.value.fix for name, value in fix.items())
    assert read(tmp_path, **fix).splits["test"]


def test_parts_of_a_split_are_read_as_a_set_of_the_hub(tmp_path: Path) -> None:
    folder_with(tmp_path, **{"train-00000-of-00002": ROWS, "train-00001-of-00002": ROWS})
    with pytest.raises(UserError, match=r'split-missing.*fix: kind = "hub"'):
        read(tmp_path)


def test_names_of_splits_in_upper_case(tmp_path: Path) -> None:
    data = read(folder_with(tmp_path, Train=ROWS, VALIDATION=ROWS, Test=ROWS))
    assert {name: len(rows) for name, rows in data.splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), len(ROWS)
    )


def test_labels_that_differ_in_case_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "label": row["label"].upper() if n % 3 else "a"} for n, row in enumerate(ROWS)]
    read(folder_with(tmp_path, train=rows, validation=rows, test=rows))
    assert "t: labels that differ in case only: A, a" in capsys.readouterr().err


def test_the_number_of_a_row_is_no_text_that_is_left_out(tmp_path: Path) -> None:
    rows = [{"": str(n), **row} for n, row in enumerate(ROWS)]
    data = read(folder_with(tmp_path, train=rows, validation=rows, test=rows))
    assert not data.columns_not_used


def test_a_table_without_a_header_says_so(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("bom dia,pos\nboa noite,neg\n")
    with pytest.raises(UserError, match="or add the header where that is data"):
        read(tmp_path, validation_split="")


def hub_set(folder: Path, names: list[str]) -> None:
    datasets = pytest.importorskip("datasets")
    for split in ("train", "validation", "test"):
        classes = datasets.ClassLabel(names=names)
        features = datasets.Features({"text": datasets.Value("string"), "label": classes})
        rows = {"text": [f"{split} {n}" for n in range(6)], "label": [n % 2 for n in range(6)]}
        (folder / "data").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )


def test_a_hub_set_names_its_labels(tmp_path: Path) -> None:
    # Not in the order of the alphabet: the numbers decide.
    hub_set(tmp_path, ["toxic", "fine"])
    data = read(tmp_path, kind="hub")
    assert data.label_names == ["toxic", "fine"]
    assert [one.label for one in data.splits["test"][:2]] == [0, 1]
    assert read(tmp_path, kind="hub", label_names=("a", "b")).label_names == ["a", "b"]


def test_splits_of_different_class_names_are_refused(tmp_path: Path) -> None:
    task = LabelledSet(name="t", path=str(tmp_path))

    def rows(names: tuple[str, ...]) -> list[Row]:
        return [Row((f"{n}",), str(n % 2), f"here:{n}", names) for n in range(4)]

    raw = {"train": rows(("a", "b")), "test": rows(("b", "a"))}
    with pytest.raises(UserError, match=r"labels-differ.*name their labels differently: a, b / b"):
        labelled_dataset._class_names(["0", "1"], raw, task)


@pytest.mark.parametrize("number", list(range(3)))
def test_a_repaired_file_is_read(tmp_path: Path, number: int) -> None:
    bad = ['label,text\na,"bom\nb,mau\n', "label,text\na,bom\n,mau\n", "label,text\n"][number]
    messages = [
        r"train\.csv:2 - unmatched quotes",
        r"train\.csv:3:label - a label must",
        "no example",
    ]
    folder_with(tmp_path, validation=ROWS, test=ROWS)
    (tmp_path / "train.csv").write_text(bad)
    with pytest.raises(UserError, match=messages[number]) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "train.csv").write_text("label,text\na,bom\nb,mau\n")
    assert len(read(tmp_path).splits["train"]) == 2


ERRORS: list[tuple[dict[str, Rows], dict[str, Any], str]] = [
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
        r"train\.jsonl:41:label - a label must be a text or a whole number",
    ),
    (
        {"train": [*ROWS, {"text": "x", "label": -1}], "validation": ROWS, "test": ROWS},
        {},
        "label -1: -1 marks an example without a label",
    ),
    (
        {"train": [*ROWS, {"text": "x", "label": None}], "validation": ROWS, "test": ROWS},
        {},
        r"train\.jsonl:41:label - a label must be a text or a whole number from 0, got None",
    ),
    (
        {"train": [*ROWS, {"text": "x", "label": " "}], "validation": ROWS, "test": ROWS},
        {},
        r"train\.jsonl:41:label - a label must be a text or a whole number from 0, got ' '",
    ),
    (
        {"train": [*ROWS, {"text": " \n", "label": "a"}], "validation": ROWS, "test": ROWS},
        {},
        r"train\.jsonl:41:text - expected a text, got ' \\n'",
    ),
    (
        {"train": ROWS, "validation": [{"text": "x", "label": "A"}], "test": ROWS},
        {},
        r'validation\.jsonl:1:label - label "A" of the validation split is not among',
    ),
    ({"train": [], "validation": ROWS, "test": ROWS}, {}, "its train split holds no example"),
    ({"train": ROWS, "validation": [], "test": ROWS}, {}, "its validation split holds no example"),
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


@pytest.mark.parametrize(("splits", "settings", "message"), ERRORS)
def test_an_error_is_one_line_with_its_place(
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
    with pytest.raises(UserError, match="is not a folder"):
        read(tmp_path / "no")


def test_the_test_split_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="is train_split or validation_split"):
        LabelledSet(name="t", path="x", test_split="validation")


def test_the_validation_split_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match='validation_split = "train" is train_split'):
        LabelledSet(name="t", path="x", validation_split="train")
    assert LabelledSet(name="t", path="x", train_split="a", validation_split="").test_split


def test_the_label_column_cannot_be_a_text_column() -> None:
    with pytest.raises(ValueError, match='label_column = "label" is read as a text too'):
        LabelledSet(name="t", path="x", text_columns=("text", "label"))
