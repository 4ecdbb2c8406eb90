from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from teenytinyllama.errors import UserError
from teenytinyllama.formats.records import read_records, suffix_of


def fields(path: Path) -> list[dict[str, object]]:
    found = list(read_records(path))
    assert all(not record.fault for record in found)
    return [record.fields for record in found]


def test_the_same_rows_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"text": "Olá, “João”; tudo\nbem?", "label": "a"}, {"text": "ção", "label": "b"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines + b"\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    table = 'text,label\r\n"Olá, “João”; tudo\nbem?",a\r\nção,b\r\n'
    (tmp_path / "a.csv").write_text(table, encoding="utf-8-sig")
    for path in tmp_path.iterdir():
        assert fields(path) == rows, path.name


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"a": 1', "not JSON"),
        (b"[1]", "not an object but list"),
        (b"null", "not an object but NoneType"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[" * 200_000, "nested too deep"),
    ],
)
def test_a_bad_line_is_one_fault_with_its_place(tmp_path: Path, line: bytes, fault: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line + b'\n{"a": 2}\n')
    good, bad, last = read_records(path)
    assert (good.fields, last.fields) == ({"a": 0}, {"a": 2})
    assert fault in bad.fault
    assert bad.place == f"{path}:2"


def test_a_csv_row_with_too_few_columns_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nsó um\nbom,b\n")
    bad, good = read_records(path)
    assert bad.fault == "1 columns, the header has 2"
    assert good.line == 3


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08broken", b""])
def test_a_broken_gz_says_so(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data or gzip.compress(b'{"a": 1}\n' * 100)[:-9])
    with pytest.raises(UserError, match="file-unreadable"):
        list(read_records(path))


def test_an_unknown_kind_lists_what_is_read(tmp_path: Path) -> None:
    assert suffix_of(Path("x.JSONL.gz")) == ".jsonl"
    with pytest.raises(UserError, match=r"\.jsonl.*\.parquet"):
        list(read_records(tmp_path / "a.docx"))
