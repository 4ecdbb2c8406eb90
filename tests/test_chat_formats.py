"""Every format x every documented layout x every stage that reads records: right, or one line.

Reading functions only; whole stages are in their own tests.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.chat_layouts import CONVERSATIONS, PREFERENCES, UNUSED

from teenytinyllama.artifacts.conversation_layouts import (
    parse_preference,
    read_conversation,
    unused_fields,
)
from teenytinyllama.errors import UserError
from teenytinyllama.settings.data_preparation import CorpusSettings
from teenytinyllama.settings.datasets import LabelledSet, Source, Task
from teenytinyllama.stages.align.chat_dataset import records_of
from teenytinyllama.stages.corpus.batches import BatchDocument, DocumentBatch, StepConfig
from teenytinyllama.stages.corpus.readers.record_parser import ExtractText, ParseRecord
from teenytinyllama.stages.corpus.readers.sources import find_files, read_file
from teenytinyllama.stages.evaluate.dataset_loading import open_split
from teenytinyllama.stages.finetune.labelled_dataset import read_labelled

Rows = list[dict[str, Any]]


def as_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows: Rows, delimiter: str) -> bytes:
    made = io.StringIO()
    cells = [
        {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in row.items()}
        for row in rows
    ]
    writer = csv.DictWriter(made, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(cells)
    return made.getvalue().encode()


def as_parquet(rows: Rows) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    made = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows), made)
    return made.getvalue()


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "jsonl": as_lines,
    "lines.json": as_lines,
    "json": lambda rows: json.dumps(rows, ensure_ascii=False, indent=1).encode(),
    "jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "jsonl.zst": lambda rows: zstandard.compress(as_lines(rows)),
    "csv": lambda rows: as_table(rows, ","),
    "tsv": lambda rows: as_table(rows, "\t"),
    "parquet": as_parquet,
}
# One line says how to convert them.
NOT_IN_A_CORPUS = {"json": "expected one object a line"}


def write(tmp_path: Path, kind: str, rows: Rows, stem: str = "a") -> Path:
    path = tmp_path / f"{stem}.{kind}"
    path.write_bytes(FORMATS[kind](rows))
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_align_reads_every_layout_in_every_format(tmp_path: Path, kind: str) -> None:
    for name, (fields, expected) in CONVERSATIONS.items():
        source = Source(kind="files", path=str(write(tmp_path, kind, [fields, fields])))
        records = list(records_of(source, "align.sources.0"))
        assert [record.error for record in records] == ["", ""], name
        for record in records:
            messages = read_conversation(record.fields, source)
            assert messages == expected, name
            assert unused_fields(record.fields, messages) == UNUSED.get(name, []), name


@pytest.mark.parametrize("kind", FORMATS)
def test_preferences_are_read_in_every_format(tmp_path: Path, kind: str) -> None:
    for name, (fields, expected) in PREFERENCES.items():
        source = Source(kind="files", path=str(write(tmp_path, kind, [fields, fields])))
        for record in records_of(source, "align.preferences.0"):
            assert parse_preference(record.fields) == expected, name


@pytest.mark.parametrize("kind", FORMATS)
def test_a_corpus_of_conversations_reads_every_layout(tmp_path: Path, kind: str) -> None:
    for name, (fields, expected) in CONVERSATIONS.items():
        path = write(tmp_path, kind, [fields, fields])
        source = Source(kind="files", path=str(path), license="CC0-1.0", shape="conversation")
        settings = CorpusSettings(sources=(source,))
        if kind in NOT_IN_A_CORPUS:
            with pytest.raises(UserError, match=NOT_IN_A_CORPUS[kind]):
                corpus_documents(find_files(settings, Counter())[0], source, settings)
            continue
        (file,) = find_files(settings, Counter())
        found, notes = corpus_documents(file, source, settings)
        contents = [[turn["content"] for turn in expected]] * 2
        assert [[m["content"] for m in one.messages] for one in found] == contents, name
        unused = {f"field-not-used-{field}": 2 for field in UNUSED.get(name, [])}
        not_learnt = 2 * sum("weight" in turn for turn in expected)
        assert +notes == Counter({**unused, "answer-of-weight-0": not_learnt}) + Counter(), name


def corpus_documents(file: Any, source: Source, settings: Any) -> tuple[list[Any], Counter[str]]:
    documents, notes = [], Counter[str]()
    config = StepConfig(settings, "pt")
    for raw in read_file(file, config, notes):
        batch = DocumentBatch(source, raw.kind, [BatchDocument(item) for item in raw.items])
        for step in (ParseRecord(config), ExtractText(config)):
            step.apply(batch)
        documents += [one.document for one in batch.documents]
        notes += batch.notes
    return documents, notes


@pytest.mark.parametrize("kind", FORMATS)
def test_labelled_sets_are_read_in_every_format(tmp_path: Path, kind: str) -> None:
    for labels in ((0, 1), (0.0, 1.0), ("ruim", "ótimo"), (False, True)):
        rows: Rows = [{"text": f"Texto {n}, «ção»\t", "label": labels[n % 2]} for n in range(6)]
        for split in ("train", "validation", "test"):
            write(tmp_path, kind.removeprefix("lines."), rows, split) if kind != "lines.json" else (
                (tmp_path / f"{split}.json").write_bytes(as_lines(rows))
            )
        data = read_labelled(LabelledSet(name="t", path=str(tmp_path)))
        assert [one.label for one in data.splits["test"]] == [0, 1, 0, 1, 0, 1]
        assert data.splits["train"][0].texts == ("Texto 0, «ção»",)


@pytest.mark.parametrize("kind", FORMATS)
def test_tasks_are_read_in_every_format(tmp_path: Path, kind: str) -> None:
    rows: Rows = [{"question": f"P{n}?", "answer": "sim"} for n in range(3)]
    path = write(tmp_path, kind, rows)
    task = Task(name="t", kind="files", path=str(path))
    placed, _ = open_split(task, {"test_split": "test"}, "test", "pt", None)
    assert [row for _, row in placed] == rows


def test_a_local_dataset_folder_is_read(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    fields, expected = CONVERSATIONS["factory alpaca whole"]
    (tmp_path / "train.jsonl").write_bytes(as_lines([fields]))
    source = Source(kind="hub", path=str(tmp_path))
    (record,) = records_of(source, "align.sources.0")
    assert read_conversation(record.fields, source) == expected
