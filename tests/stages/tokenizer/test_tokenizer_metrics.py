from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from teenytinyllama.artifacts.tokenizer import load_tokenizer
from teenytinyllama.errors import UserError
from teenytinyllama.stages.tokenizer.tokenizer_metrics import (
    EncodingTotals,
    coverage_by_script,
    open_tokenizer,
    read_text,
    table_1_row,
)


def test_metrics_counted_by_hand(small_tokenizer_dir: Path) -> None:
    totals = EncodingTotals()
    totals.add("汉 汉", load_tokenizer(small_tokenizer_dir))  # space, 3 bytes, space, 3 bytes
    metrics = totals.metrics()
    assert (metrics["num_words"], metrics["num_bytes"], metrics["num_tokens"]) == (2, 7, 8)
    assert (metrics["num_byte_tokens"], metrics["byte_fallback_fraction"]) == (6, 0.75)
    assert metrics["tokens_per_word"] == 4


def test_byte_level_counts_parts_of_characters(small_bytes_tokenizer_dir: Path) -> None:
    totals = EncodingTotals()
    totals.add("x 汉", load_tokenizer(small_bytes_tokenizer_dir))  # x, space, 3 bytes
    metrics = totals.metrics()
    assert (metrics["num_tokens"], metrics["num_byte_tokens"]) == (5, 3)
    row = table_1_row(open_tokenizer("bytes", small_bytes_tokenizer_dir), "x 汉")
    assert (row["byte_fallback_fraction"], row["is_lossless"]) == (0.6, True)


def test_characters_without_a_token_are_counted_by_script(small_tokenizer_dir: Path) -> None:
    encoder = load_tokenizer(small_tokenizer_dir)
    found = coverage_by_script(Counter("aaaa 汉汉   ก"), encoder)
    assert list(found) == ["Latin", "Common", "Han", "Thai"]
    assert found["Latin"]["without_token_fraction"] == 0
    assert found["Han"] == {
        "num_characters": 2, "num_without_token": 2, "without_token_fraction": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "code"), [(None, "measure-missing"), (b"\x80\x04}.", "measure-unreadable")]
)
def test_file_that_is_not_a_tokenizer(tmp_path: Path, content: bytes | None, code: str) -> None:
    for name in ("x.model", "tokenizer.json"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            open_tokenizer("x", tmp_path / name)
        assert caught.value.code == code
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xff")
    for name in ("text.txt", "missing.txt"):
        with pytest.raises(UserError, match="measure-text"):
            read_text(tmp_path / name)
