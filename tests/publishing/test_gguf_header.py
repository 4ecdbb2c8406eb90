"""Strings of a GGUF header, and counts that the file cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.finished_run import gguf

from teenytinyllama.errors import UserError
from teenytinyllama.publishing.gguf_header import read_gguf_texts


def test_keys_and_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf("general.name", "pequeno"))
    assert list(read_gguf_texts(path)) == ["general.name", "pequeno"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "unpack requires"),
        (b"GGML" + gguf()[4:], "wrong magic"),
        (gguf(keys=1 << 50), "keys"),
        (gguf(keys=2), "unpack requires"),
        (gguf()[:-1], "a string of"),
    ],
)
def test_a_damaged_header_is_an_error(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError, match="gguf-damaged") as error:
        list(read_gguf_texts(path))
    assert what in error.value.what
