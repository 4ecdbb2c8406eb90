"""Rows of tables, and tables that would fill the memory."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from teenytinyllama.artifacts.decompression import DamagedFileError
from teenytinyllama.artifacts.parquet import BadRowError, parquet_rows

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"text": "ação", "n": 1, "chat": [{"role": "user", "content": "oi"}], "raw": "é".encode()},
    {"text": None, "n": None, "chat": None, "raw": None},
    {"text": "b", "n": 3, "chat": [], "raw": b"x"},
]


def written(table: Any, path: Path, **named: Any) -> Path:
    pq.write_table(table, path, compression="zstd", **named)
    return path


@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_are_as_written_and_bytes_are_text(dictionary: bool, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    path = written(table, tmp_path / "a.parquet", use_dictionary=dictionary, row_group_size=2)
    wanted = [{**row, "raw": row["raw"] and row["raw"].decode()} for row in ROWS]
    assert list(parquet_rows(path)) == wanted
    chosen = parquet_rows(path, lambda names: {"n", "none"} & set(names))
    assert list(chosen) == [{"n": 1}, {"n": None}, {"n": 3}]


def test_a_row_that_is_not_utf8_leaves_the_others(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"caf\xe9", b"c"]).view(pa.string())
    path = written(pa.table({"text": texts}), tmp_path / "a.parquet")
    first, bad, last = parquet_rows(path)
    assert (first, last) == ({"text": "a"}, {"text": "c"})
    assert isinstance(bad, BadRowError)


def _dictionary(value: object, times: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([value]))


def test_differences_are_read_in_bounded_memory(tmp_path: Path) -> None:
    texts = [f"uma raposa {n}" for n in range(50)]
    path = tmp_path / "a.parquet"
    for encoding in ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"):
        plain = {"use_dictionary": False, "column_encoding": encoding}
        written(pa.table({"text": texts}), path, **plain)
        assert [row["text"] for row in parquet_rows(path)] == texts
    # Equal values take no bytes as differences.
    plain["column_encoding"] = "DELTA_BYTE_ARRAY"
    written(pa.table({"text": ["0" * 1_000_000] * 900}), path, **plain)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedFileError, match="decompression-bomb"):
        for row in parquet_rows(path):
            assert row
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_two_columns_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DamagedFileError, match="two columns are called text"):
        list(parquet_rows(written(table, tmp_path / "a.parquet")))


BOMBS = {
    "one text for all rows": lambda: pa.table({"text": _dictionary("lorem ipsum " * 250_000, 900)}),
    "one text for a list": lambda: pa.table(
        {"text": pa.ListArray.from_arrays([0, 10_000], _dictionary("lorem " * 50_000, 10_000))}
    ),
    "pages of zeros": lambda: pa.table({"text": ["0" * 20_000_000] * 2}),
    "a list of nulls": lambda: pa.table(
        {"text": pa.ListArray.from_arrays([0, 60_000_000], pa.nulls(60_000_000, pa.int8()))}
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_table_that_grows_without_measure_is_stopped(name: str, tmp_path: Path) -> None:
    table = BOMBS[name]()
    path = written(table, tmp_path / "a.parquet", use_dictionary="zeros" not in name)
    del table
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedFileError, match="decompression-bomb"):
        for _ in parquet_rows(path):
            pass
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300, f"{grown:.0f} MB"


def test_a_cut_table_is_damaged(tmp_path: Path) -> None:
    path = written(pa.table({"text": ["a" * 1000]}), tmp_path / "a.parquet")
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError, match="table-damaged"):
            list(parquet_rows(path))


@pytest.mark.parametrize("place", [0, 1])  # in the schema and beside the column's values
def test_a_column_name_that_is_not_utf8_is_a_damaged_file(place: int, tmp_path: Path) -> None:
    path = written(pa.Table.from_pylist([{"text": "ação", "nome": "a"}]), tmp_path / "a.parquet")
    parts = path.read_bytes().split(b"nome")
    before, after = b"nome".join(parts[: place + 1]), b"nome".join(parts[place + 1 :])
    path.write_bytes(before + b"n\xceme" + after)
    with pytest.raises(DamagedFileError, match="table-damaged"):
        list(parquet_rows(path))
