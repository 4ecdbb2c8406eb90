"""Rows from tables, folders and the Hub; what cannot be read is a one-line error."""

from __future__ import annotations

import gzip
import json

import datasets
import pytest
from support.benchmark_items import ARC, ROWS, vary, write_split

from teenytinyllama.errors import UserError
from teenytinyllama.settings.datasets import Task
from teenytinyllama.stages.evaluate import dataset_loading
from teenytinyllama.stages.evaluate.task_loading import load_benchmark


def test_csv_file(tmp_path):
    keys = list(ARC)
    text = ",".join(keys) + "\n" + ",".join(str(ARC[key]) for key in keys) + "\n"
    (tmp_path / "test.csv").write_text(text, encoding="utf-8")
    benchmark = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert benchmark.scored_items[0]["gold"] == 1


def test_csv_with_line_separator_and_long_field(tmp_path):
    """U+2028 does not end a row, and a field may be longer than 128 kB."""
    keys = list(ARC)
    rows = [{**ARC, "instruction": "Quanto é\u2028dois?"}, {**ARC, "instruction": "x" * 200_000}]
    lines = [",".join(keys), *(",".join(str(row[key]) for key in keys) for row in rows)]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bench = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert [len(item["question"]) for item in bench.scored_items] == [14, 200_000]
    assert bench.places["test"][1].endswith("test.csv:3")


def test_csv_with_semicolons(tmp_path):
    keys = list(ARC)
    (tmp_path / "test.csv").write_text(
        ";".join(keys) + "\n" + ";".join(str(ARC[key]) for key in keys) + "\n", encoding="utf-8"
    )
    task = Task(name="arc_pt", path=str(tmp_path))
    assert load_benchmark(task, {"num_fewshot": 0}).scored_items[0]["gold"] == 1


def test_unclosed_quote_is_a_one_line_error(tmp_path):
    keys = list(ARC)
    row = ",".join(str(ARC[key]) for key in keys)
    text = ",".join(keys) + "\n" + f'"{row}\n' + f"{row}\n" * 3
    (tmp_path / "test.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert "test.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def hub_error(task):
    with pytest.raises(UserError, match="task-hub") as caught:
        load_benchmark(task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_local_folder_in_hub_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_split(tmp_path / "set", "test", vary(ROWS["oab"], 6))
    task = Task(name="oab", kind="hub", path=str(tmp_path / "set"))
    assert len(load_benchmark(task).scored_items) == 6
    missing = Task(name="oab", kind="hub", path=str(tmp_path / "absent"))
    hub_error(missing)


def test_no_network_is_a_one_line_error(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\n(offline)")

    monkeypatch.setattr(dataset_loading.datasets, "get_dataset_split_names", offline)
    message = hub_error(Task(name="calame_pt", kind="hub"))
    assert "NOVA-vision-language/calame-pt" in message
    assert "local copy" in message


@pytest.mark.parametrize("where", ["get_dataset_split_names", "load_dataset"])
@pytest.mark.parametrize("text", ["", "a row is broken\nTraceback ..."])
def test_any_hub_error_is_one_line(monkeypatch, where, text):
    def fail(*_, **__):
        raise datasets.exceptions.DatasetGenerationError(text)

    monkeypatch.setattr(
        dataset_loading.datasets, "get_dataset_split_names", lambda *_: ["test", "train"]
    )
    monkeypatch.setattr(dataset_loading.datasets, where, fail)
    message = hub_error(Task(name="calame_pt", kind="hub"))
    assert (text.splitlines() or ["DatasetGenerationError"])[0] in message
    assert "Traceback" not in message


def test_hub_dataset_is_loaded_with_published_name_and_split(monkeypatch):
    calls = []
    monkeypatch.setattr(
        dataset_loading.datasets,
        "get_dataset_split_names",
        lambda *args: calls.append(args) or ["train"],
    )
    monkeypatch.setattr(
        dataset_loading.datasets,
        "load_dataset",
        lambda *args, **options: calls.append((*args, options["split"])) or [ROWS["calame_pt"]],
    )
    benchmark = load_benchmark(Task(name="calame_pt", kind="hub"))
    assert calls == [
        ("NOVA-vision-language/calame-pt", "all"),
        ("NOVA-vision-language/calame-pt", "all", "train"),
    ]
    assert benchmark.scored_items == [{"context": "O gato subiu no", "target": " telhado"}]


@pytest.mark.parametrize(
    "name", ["test-00000-of-00001.parquet", "test.jsonl.gz", "test.ndjson", "TEST.JSONL"]
)
def test_files_that_the_readers_know_are_found(name, tmp_path):
    rows = [ARC, {**ARC, "instruction": "a\u2028b\u2029c?"}]
    path = tmp_path / name
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    bench = load_benchmark(Task(name="arc_pt", path=str(tmp_path)), {"num_fewshot": 0})
    assert [item["question"] for item in bench.scored_items] == [
        ARC["instruction"],
        "a\u2028b\u2029c?",
    ]
