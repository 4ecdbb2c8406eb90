from __future__ import annotations

import gzip
import json
import lzma
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from teenytinyllama.artifacts import records
from teenytinyllama.artifacts.records import hub_records, kind_of, read_records, suffix_of
from teenytinyllama.errors import UserError


def fields(path: Path) -> list[dict[str, object]]:
    found = list(read_records(path))
    assert all(not record.error for record in found)
    return [record.fields for record in found]


def test_every_kind_of_file_gives_the_same_records(tmp_path: Path) -> None:
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
    ("line", "error"),
    [
        (b'{"a": 1', "not JSON"),
        (b"[1]", "not an object but list"),
        (b"null", "not an object but NoneType"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"instruction": ' + b"[" * 960 + b"]" * 960 + b"}", "nested too deep"),
    ],
)
def test_a_bad_line_is_one_error_with_its_line(tmp_path: Path, line: bytes, error: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line + b'\n{"a": 2}\n')
    good, bad, last = read_records(path)
    assert (good.fields, last.fields) == ({"a": 0}, {"a": 2})
    assert error in bad.error
    assert bad.place == f"{path}:2"


def test_a_csv_row_with_too_few_columns_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nsó um\nbom,b\n")
    bad, good = read_records(path)
    assert bad.error == "1 columns, the header has 2"
    assert good.line == 3


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08broken", b""])
def test_a_broken_gz_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data or gzip.compress(b'{"a": 1}\n' * 100)[:-9])
    with pytest.raises(UserError, match="file-unreadable"):
        list(read_records(path))


@pytest.mark.parametrize("before", [b"", b'{"text": "um"}\n'])
def test_a_line_without_end_is_not_held(
    before: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 1 << 12)
    (tmp_path / "a.jsonl").write_bytes(before + bytes(1 << 13))
    with pytest.raises(UserError, match="a line of 0 MiB or more"):
        list(read_records(tmp_path / "a.jsonl"))


def test_a_list_too_long_to_hold_gets_the_command_that_cuts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_LIST_BYTES", 1 << 12)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "um"}] * 1000))
    with pytest.raises(UserError, match=r"is a list of .* fix: jq -c '\.\[\]'"):
        list(read_records(tmp_path / "a.json"))


def test_an_unknown_kind_lists_the_known_ones(tmp_path: Path) -> None:
    assert suffix_of(Path("x.JSONL.gz")) == ".jsonl"
    with pytest.raises(UserError, match=r"\.jsonl.*\.parquet"):
        list(read_records(tmp_path / "a.docx"))


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ('label,text\n0,"abc\n1,def\n0,ghi\n', 2),
        ('label,text\n0,abc\n1,"d"ef\n', 3),
        ('label,text\n0,"a\nb"\n1,"def\n0,"ghi"\n', 4),
    ],
)
def test_a_stray_quote_is_an_error_on_one_line(tmp_path: Path, table: str, line: int) -> None:
    path = tmp_path / "a.csv"
    path.write_text(table)
    with pytest.raises(
        UserError, match=rf"quotes-open.*a\.csv:{line} - unmatched quotes"
    ) as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)


def test_a_lone_quote_in_a_plain_tsv_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    table = 'label\ttext\n0\t"abc\n1\t"d" ef\n0\t"g, ""h"""\r\n\n1\t"\n0\t\n'
    path.write_bytes(gzip.compress(table.encode()))
    found = list(read_records(path))
    assert [one.fields["text"] for one in found] == ['"abc', '"d" ef', 'g, "h"', '"', ""]
    assert [one.line for one in found] == [2, 3, 4, 6, 7]


def test_a_tsv_with_quoted_newlines_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('label\ttext\n0\t"a\nb"\n1\tc\n')
    assert [one["text"] for one in fields(path)] == ["a\nb", "c"]
    path.write_text('label\ttext\n0\t"a\nb"\n1\t"def\n0\tghi\n')
    with pytest.raises(UserError, match=r"quotes-open.*a\.tsv:4 - unmatched quotes"):
        list(read_records(path))
    path.write_text("label\ttext\n0\ta\n1\n")
    assert [one.error for one in read_records(path)] == ["", "1 columns, the header has 2"]


def test_inner_quotes_and_quoted_newlines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('label,text\n0,say "yes"\n1,"a ""b""\nc"\n0,d\n')
    found = list(read_records(path))
    assert [record.fields["text"] for record in found] == ['say "yes"', 'a "b"\nc', "d"]
    assert [record.line for record in found] == [2, 3, 5]


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_csv_with_another_delimiter_is_read(tmp_path: Path, separator: str, quote: str) -> None:
    path = tmp_path / "a.csv"
    rows = [["label", "text"], ["0", "bom, muito"], ["1", "mau"]]
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) + "\r\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8-sig", newline="")
    assert fields(path) == [{"label": "0", "text": "bom, muito"}, {"label": "1", "text": "mau"}]


def test_a_row_with_more_columns_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\num; dois\n")
    assert fields(path) == [{"text": "um; dois"}]
    path.write_text("label;text\n0;um; dois\n")
    assert [record.error for record in read_records(path)] == ["3 columns, the header has 2"]


@pytest.mark.parametrize("sign", ["\u2028", "\x0c", "\x85", "\x1c"])
def test_other_separators_do_not_split_rows(tmp_path: Path, sign: str) -> None:
    rows = [{"text": f"um{sign}dois", "label": "a"}, {"text": "x" * 200_000, "label": "b"}]
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows)
    )
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    assert fields(tmp_path / "a.csv") == rows
    assert fields(tmp_path / "a.jsonl") == rows


@pytest.mark.skipif(not shutil.which("iconv"), reason="the advice is a command of iconv")
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_that_is_not_utf8_is_an_error_whose_advice_helps(
    encoding: str, tmp_path: Path
) -> None:
    path = tmp_path / "o meu.csv"
    text = "text,label\n" + "maçã,a\n" * 20_000
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"not UTF-8.*line 1.*fix: iconv") as error:
        list(read_records(path))
    command = error.value.fix.split(", where")[0]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert fields(path) == [{"text": "maçã", "label": "a"}] * 20_000


def test_columns_may_be_set_apart_by_bars(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text|label\num, dois|a\n")
    assert fields(tmp_path / "a.csv") == [{"text": "um, dois", "label": "a"}]


class Rows(list):
    """What `datasets` gives, as far as it is read."""

    features = None

    def __iter__(self) -> Iterator[object]:
        for row in super().__iter__():
            if isinstance(row, Exception):
                raise row
            yield row


@pytest.mark.parametrize("message", ["", "An error occurred\nat great length"])
def test_an_error_of_a_hub_dataset_is_one_line(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    datasets = pytest.importorskip("datasets")

    class GenerationError(Exception):
        """Of no base class that we know."""

    rows = Rows([{"text": "a"}, GenerationError(message)])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    found = hub_records("org/set", config="", split="test", revision="", where="task t")
    assert next(found).fields == {"text": "a"}
    with pytest.raises(UserError, match=r"hub-unreadable.*task t.*GenerationError") as caught:
        next(found)
    assert "\n" not in str(caught.value)


ROWS = [{"a": 1}, {"a": 2}, {"a": 3}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
@pytest.mark.parametrize(
    "content",
    [
        LINES,
        b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n"),
        b"\n\n" + json.dumps(ROWS).encode(),
        json.dumps(ROWS, indent=1).encode(),
    ],
)
def test_lines_and_lists_are_told_by_content_not_by_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert fields(tmp_path / name) == ROWS


def test_one_object_on_many_lines_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, 2]}, indent=1))
    assert fields(tmp_path / "a.json") == [{"a": [1, 2]}]
    (tmp_path / "empty.json").write_text("")
    assert fields(tmp_path / "empty.json") == []


def test_a_broken_list_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": ')
    with pytest.raises(UserError, match=r"not JSON.*one list .* or one object on each line"):
        list(read_records(tmp_path / "a.json"))


def test_compression_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl.gz").write_bytes(LINES)
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(LINES))
    (tmp_path / "members.jsonl.gz").write_bytes(gzip.compress(LINES[:9]) + gzip.compress(LINES[9:]))
    for path in tmp_path.iterdir():
        assert fields(path) == ROWS, path.name


def test_all_frames_of_zstandard_are_read(tmp_path: Path) -> None:
    """pzstd writes several, and skippable ones between them."""
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    large = b"\x5f\x2a\x4d\x18" + (5000).to_bytes(4, "little") + b"\x28\xb5\x2f\xfd" * 1250
    halves = zstandard.compress(LINES[:9]), zstandard.compress(LINES[9:])
    for between in (b"", skippable, large, skippable * 2):
        path = tmp_path / "a.jsonl.zst"
        path.write_bytes(between + halves[0] + between + halves[1] + between)
        assert fields(path) == ROWS


def test_a_zstandard_file_that_is_cut_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    data = zstandard.compress(b"".join(b'{"a": %d}\n' % n for n in range(9000)))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="zstd-truncated"):
        list(read_records(path))


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,text\na,1,b\n")
    with pytest.raises(UserError, match=r"column-twice.*a\.csv:1 - two columns are named text"):
        list(read_records(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_pointer_of_git_lfs_is_named(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 16252355\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(UserError, match=r"file-packing.*a pointer of Git LFS.* fix: git lfs pull"):
        list(read_records(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp1252"])
def test_json_in_another_encoding_names_the_command(encoding, tmp_path):
    path = tmp_path / "a.json"
    text = json.dumps([{"text": "ação"}], ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=rf"not UTF-8.*fix: iconv -f {encoding} ") as error:
        list(read_records(path))
    if shutil.which("iconv"):
        subprocess.run(
            error.value.fix.partition(", where")[0], shell=True, check=True, cwd=tmp_path
        )
        assert [record.fields for record in read_records(path)] == [{"text": "ação"}]


PORTUGUESE = [
    {"text": f"A avó {n} pôs o pão na mesa; não há razão para ter medo."} for n in range(40)
]


@pytest.mark.parametrize("encoding", ["cp1252", "cp850", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.CSV.XZ"])
def test_a_file_in_another_encoding_names_it_and_a_command_that_helps(name, encoding, tmp_path):
    lines = [json.dumps(row, ensure_ascii=False) for row in PORTUGUESE]
    if ".csv" in name.lower():
        lines = ["text,id", *(f"{row['text']},1" for row in PORTUGUESE)]
    text = f"[{','.join(lines)}]" if name == "a.json" else "\n".join(lines)
    pack = {".gz": gzip.compress, ".XZ": lzma.compress}.get(Path(name).suffix, bytes)
    path = tmp_path / name
    path.write_bytes(pack(text.encode(encoding)))
    with pytest.raises(UserError, match=f"not UTF-8 but {encoding.upper()}") as error:
        list(read_records(path, "pt"))
    if shutil.which("iconv"):
        subprocess.run(error.value.fix, shell=True, check=True, cwd=tmp_path)
        assert [{"text": row["text"]} for row in fields(path)] == PORTUGUESE


def test_json_in_utf16_of_any_script_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps({"т": "При" * 99}, ensure_ascii=False).encode("utf-16-be"))
    with pytest.raises(UserError, match="not UTF-8 but UTF-16-BE"):
        list(read_records(path))


def test_a_wrong_byte_in_utf8_costs_its_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in PORTUGUESE]
    path.write_bytes(b"\n".join([*lines, b'{"text": "\xe7\xe3o\xe9\xe3"}']))
    assert [bool(one.error) for one in read_records(path, "pt")] == [False] * 40 + [True]
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\n" + b"\n".join(lines) + b"\n\xe7\xe3o\n")
    with pytest.raises(UserError, match="fix: correct that place"):
        list(read_records(path, "pt"))


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;;"])
def test_a_line_that_tells_excel_the_separator_is_no_header(first: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{first}\r\ntext;label\r\num, dois;a\r\ntrês\r\n", encoding="utf-8-sig")
    good, bad = read_records(path)
    assert (good.fields, good.line) == ({"text": "um, dois", "label": "a"}, 3)
    assert (bad.error, bad.line) == ("1 columns, the header has 2", 4)


@pytest.mark.parametrize("name", ["a.csv", "A.JSONL", "a.json.gz", "a.parquet"])
def test_a_page_in_place_of_data_is_named(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_text("\n<!DOCTYPE html>\n<html><body>404</body></html>\n")
    with pytest.raises(UserError, match=r"file-kind.*a page of HTML.*download the file itself"):
        list(read_records(tmp_path / name))


def test_names_in_upper_case_are_of_the_same_kind(tmp_path: Path) -> None:
    for name in ("A.JSONL", "B.JSONL.GZ", "C.Csv"):
        text = "a\n1\n" if "Csv" in name else '{"a": "1"}\n'
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("GZ") else data)
        assert fields(tmp_path / name) == [{"a": "1"}]
    assert [kind_of(Path(name)) for name in ("A.TXT", "A.WARC.GZ", "A.HTM")] == [
        "text",
        "web",
        "html",
    ]


@pytest.mark.parametrize("name", ["one line.jsonl", "lines.jsonl", "lines.json", "list.json"])
def test_a_list_of_messages_alone_is_a_conversation(name: str, tmp_path: Path) -> None:
    """As nanochat writes them: one list on each line."""
    messages = [{"role": "user", "content": "Oi"}, {"role": "assistant", "content": "Olá"}]
    count = 1 if name.startswith("one") else 3
    line = json.dumps(messages)
    text = f"[{line}, {line}, {line}]" if name == "list.json" else f"{line}\n" * count
    (tmp_path / name).write_text(text)
    assert fields(tmp_path / name) == [{"messages": messages}] * count


WRAPPED = {
    "a.json": json.dumps({"version": "1", "data": ROWS}),
    "b.json": json.dumps({"train": ROWS}, indent=1),
    "pandas.json": json.dumps({"a": {str(n): n for n in range(3)}}),
    "pretty.jsonl": "\n".join(json.dumps(row, indent=1) for row in ROWS),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_records_that_other_programs_wrap_say_what_to_type(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(WRAPPED[name])
    with pytest.raises(UserError, match=r"json-not-lines.*, expected one record a line") as error:
        list(read_records(tmp_path / name))
    if shutil.which("jq"):
        subprocess.run(error.value.fix, shell=True, check=True, cwd=tmp_path)
        made = tmp_path / f"{name.partition('.')[0]}-lines.jsonl"
        assert fields(made) == ([{"a": n} for n in range(3)] if name == "pandas.json" else ROWS)


def test_one_object_may_be_one_record(tmp_path: Path) -> None:
    record = {"messages": [{"role": "user", "content": "Oi"}], "a": {"b": 1}}
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(json.dumps(record, indent=indent) + "\n")
        assert fields(tmp_path / "a.json") == [record]
    (tmp_path / "a.json").write_text("{}")
    assert fields(tmp_path / "a.json") == [{}]


def test_joined_files_keep_the_records_behind_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n\xef\xbb\xbf{"a": 2}\n')
    assert fields(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


def test_a_table_of_another_kind_than_its_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(UserError, match=r"holds JSON, not a table.* fix: mv .*a\.csv .*a\.jsonl"):
        list(read_records(tmp_path / "a.csv"))
    with zipfile.ZipFile(tmp_path / "b.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    (tmp_path / "old.csv").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    for name in ("b.csv", "old.csv"):
        with pytest.raises(UserError, match=r'of an office program.*save as "CSV UTF-8"'):
            list(read_records(tmp_path / name))
    (tmp_path / "c.csv").write_text("text, label\na,b\n")
    assert fields(tmp_path / "c.csv") == [{"text": "a", "label": "b"}]
