"""Sizes of text estimated from a sample."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

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


def test_another_script_has_more_bytes_in_a_token(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("একদিন সকালে মিতা হাটে গেল। " * 300)
    found = measure_corpus([tmp_path / "a.txt"])
    assert 2.4 < found.bytes_per_character < 3
    assert bytes_per_token(8192, found.bytes_per_character) == pytest.approx(
        bytes_per_token(8192, 1.03) * found.bytes_per_character / 1.03
    )
    assert found.different_words == 5  # the second half of the text has nothing new


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
