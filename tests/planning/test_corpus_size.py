"""Sizes of text estimated from a sample."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path
from random import Random

import pytest
import zstandard

from teenytinyllama.errors import UserError
from teenytinyllama.planning.corpus_size import measure_corpus
from teenytinyllama.planning.planner import bytes_per_token


def lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def test_text_is_counted_in_its_field_and_decompressed(tmp_path: Path) -> None:
    text = "Era uma vez um sapo que morava longe. " * 200
    rows = [{"id": "x" * 500, "text": text + str(n)} for n in range(30)]
    plain = lines(tmp_path / "a.jsonl", rows)
    real = sum(len(row["text"]) for row in rows)
    found = measure_corpus([plain])
    assert found.text_bytes == pytest.approx(real, rel=0.02)
    assert found.bytes_per_character == 1.0
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(lines(tmp_path / "c.jsonl", rows[:8]).read_bytes()))
    assert measure_corpus([packed]).text_bytes == pytest.approx(real * 8 / 30, rel=0.02)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_counts_as_the_same_text_in_utf8(encoding: str, tmp_path: Path) -> None:
    rows = [{"text": "Não há razão, disse a avó. " * 30} for _ in range(400)]
    (tmp_path / "a.TXT").write_text(rows[0]["text"] * 400, encoding)
    text = lines(tmp_path / "b.jsonl", rows).read_text()
    (tmp_path / "B.JSONL").write_text(text, encoding)
    for name in ("a.TXT", "B.JSONL"):
        found = measure_corpus([tmp_path / name])
        assert found.text_bytes == pytest.approx(len(rows[0]["text"].encode()) * 400, rel=0.02)


def test_another_script_has_more_bytes_in_a_token(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("একদিন সকালে মিতা হাটে গেল। " * 300)
    found = measure_corpus([tmp_path / "a.txt"])
    assert 2.4 < found.bytes_per_character < 3
    assert bytes_per_token(8192, found.bytes_per_character) == pytest.approx(
        bytes_per_token(8192, 1.03) * found.bytes_per_character / 1.03
    )
    assert found.different_words == 5  # the second half of the text has nothing new


def test_records_longer_than_the_sample_are_read_whole(tmp_path: Path) -> None:
    book = "Era uma vez um sapo que morava longe. " * 60_000  # 2.3 MB a line
    books = lines(tmp_path / "a.jsonl", [{"text": book}, {"text": book}])
    assert measure_corpus([books]).text_bytes == pytest.approx(2 * len(book), rel=0.001)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(books.read_bytes()))
    assert measure_corpus([packed]).text_bytes == pytest.approx(2 * len(book), rel=0.02)


def test_the_fields_beside_the_text_do_not_count(tmp_path: Path) -> None:
    # Long records with much else in them: the text is a tenth of the file, in every sample of it.
    rows = [{"raw": "x" * 900_000, "text": "um sapo " * 12_500} for _ in range(6)]
    found = measure_corpus([lines(tmp_path / "a.jsonl", rows)])
    assert found.text_bytes == pytest.approx(600_000, rel=0.01)


def test_files_weigh_by_their_sizes_and_all_are_spread_over(tmp_path: Path) -> None:
    small = [
        lines(tmp_path / f"a{n:02}.jsonl", [{"text": "sapo", "raw": "x" * 90}]) for n in range(22)
    ]
    big = lines(tmp_path / "z.jsonl", [{"text": "um sapo " * 1000}] * 40)
    assert measure_corpus([*small, big]).text_bytes == pytest.approx(320_088, rel=0.01)


def test_files_that_are_no_text_are_named_and_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Era uma vez. " * 1000)
    (tmp_path / "b.doc").write_bytes(b"\xd0\xcf\x11\xe0" + b"text " * 100_000)
    (tmp_path / "c.zip").write_bytes(b"PK")
    found = measure_corpus(sorted(tmp_path.iterdir()))
    assert (found.text_bytes, found.num_files) == (13_000, 1)
    assert "cannot read them: 1 .doc, 1 .zip" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"only files that .* cannot read \(1 \.doc\)"):
        measure_corpus([tmp_path / "b.doc"])


def test_pages_are_named_and_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Era uma vez. " * 1000)
    (tmp_path / "b.html").write_text("<p>Era uma vez." * 1000)
    (tmp_path / "c.warc.gz").write_bytes(b"")
    (tmp_path / "d.txt").write_text("<!doctype html><p>Era uma vez." * 1000)
    assert measure_corpus(sorted(tmp_path.iterdir())).text_bytes == 13_000
    assert "finds their text: 1 .html, 1 .warc, 1 .txt" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no text but in pages.*\(1 \.html\).* --text-mb"):
        measure_corpus([tmp_path / "b.html"])


def test_members_and_frames_are_read_on(tmp_path: Path) -> None:
    text = "".join(f"Era uma vez o sapo número {n}.\n" for n in range(3000))
    half = len(text) // 2
    (tmp_path / "a.txt.gz").write_bytes(
        gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode()) + b"\0" * 50
    )
    pack = zstandard.ZstdCompressor().compress
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    (tmp_path / "b.txt.zst").write_bytes(
        skipped + pack(text[:half].encode()) + skipped + pack(text[half:].encode())
    )
    (tmp_path / "c.txt.bz2").write_bytes(bz2.compress(text.encode()))
    (tmp_path / "d.txt.xz").write_bytes(lzma.compress(text.encode()))
    for name in ("a.txt.gz", "b.txt.zst", "c.txt.bz2", "d.txt.xz"):
        found = measure_corpus([tmp_path / name]).text_bytes
        assert found == pytest.approx(len(text.encode()), rel=0.01), name


def test_a_list_of_records_and_another_field_are_found(tmp_path: Path) -> None:
    rows = [{"id": str(n), "content": "Era uma vez. " * 50} for n in range(40)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = measure_corpus([tmp_path / "a.json"])
    assert found.text_bytes == pytest.approx(26_000, rel=0.01)
    assert found.text_key == "content"


def test_empty_rows_of_a_table_count_as_none(tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = ["Era uma vez. " * 20, None] * 2000
    parquet.write_table(table.table({"text": texts}), tmp_path / "a.parquet", row_group_size=500)
    assert measure_corpus([tmp_path / "a.parquet"]).text_bytes == pytest.approx(520_000, rel=0.01)


def test_text_columns_are_found_among_others(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    content = arrow.array(["Era uma vez. " * 20] * 50).dictionary_encode()
    table = arrow.table({"image": [b"\xff\xfe"] * 50, "content": content, "year": [1900] * 50})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = measure_corpus([tmp_path / "a.parquet"])
    assert (found.text_key, found.text_bytes) == ("content", pytest.approx(13_000))


def test_a_table_of_few_bytes_and_long_values_is_sampled_in_bounded_memory(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    once = arrow.array(["a" * (4 << 20)])
    many = arrow.DictionaryArray.from_arrays(arrow.array([0] * 1000, arrow.int32()), once)
    parquet.write_table(arrow.table({"text": many}), tmp_path / "a.parquet", store_schema=False)
    tracemalloc.start()
    found = measure_corpus([tmp_path / "a.parquet"])
    assert tracemalloc.get_traced_memory()[1] < 100 << 20  # its rows are 4 GB
    tracemalloc.stop()
    assert found.text_bytes == pytest.approx(1000 * (4 << 20))


def test_rows_are_sampled_from_the_whole_table(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = ["a" * 10] * 6000 + ["b" * 70] * 3000
    parquet.write_table(arrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=3000)
    assert measure_corpus([tmp_path / "a.parquet"]).text_bytes == pytest.approx(270_000)


def test_a_chinese_token_has_few_characters(tmp_path: Path) -> None:
    # 2,000 characters, their frequencies as in text (Zipf): about 9.3 bits each.
    random = Random(1)
    weights = [1 / (place + 10) for place in range(2000)]
    signs = random.choices([chr(0x4E00 + n) for n in range(2000)], weights, k=100_000)
    (tmp_path / "a.txt").write_text("".join(signs), encoding="utf-8")
    found = measure_corpus([tmp_path / "a.txt"])
    assert 1900 < found.num_letters <= 2000
    assert 9 < found.bits_per_character < 10
    each = bytes_per_token(32_000, found.bytes_per_character, found.bits_per_character)
    assert 3.5 < each < 5.5  # 13 by bytes alone


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.txt", b"  \n ", "text-empty"),
        ("a.jsonl", b"[1, 2]\n", "text-empty"),
        ("a.jsonl.gz", b"no gzip", "text-unreadable"),
        ("a.txt.zst", b"no zstd", "text-unreadable"),
        ("a.parquet", b"no parquet", "text-unreadable"),
    ],
)
def test_files_without_text_are_an_error(
    tmp_path: Path, name: str, content: bytes, code: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        measure_corpus([tmp_path / name])
    assert error.value.code == code


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [{"role": "user", "content": "Oi"}]}, "--chat"),
        ({"texts": ["um", "dois"], "n": 1}, "they have 1 texts, 1 n"),
    ],
)
def test_records_without_text_say_what_they_have(
    row: dict[str, object], said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=said):
        measure_corpus([tmp_path / "a.jsonl"])


def test_what_other_programs_unpack_or_fetch_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(UserError, match="git lfs pull"):
        measure_corpus([tmp_path / "a.txt"])


def test_text_of_one_character_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 3000)
    found = measure_corpus([tmp_path / "a.txt"])
    assert found.bits_per_character == 0
    assert bytes_per_token(400, found.bytes_per_character, found.bits_per_character) > 0


def test_tables_in_text_are_measured_by_their_column_of_text(tmp_path: Path) -> None:
    rows = "".join(f'"{n}, um sapo ""verde""";{n}\n' for n in range(1000))
    (tmp_path / "a.csv").write_text(f"corpo;n\n{rows}", "cp1252")
    found = measure_corpus([tmp_path / "a.csv"])
    assert found.text_key == "corpo"
    assert found.text_bytes == pytest.approx(sum(len(f'{n}, um sapo "verde"') for n in range(1000)))
