"""Documents survive writing and reading, in shards, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.artifacts.documents import (
    Document,
    DocumentWriter,
    document_paths,
    document_row,
    read_documents,
)
from teenytinyllama.errors import UserError

DOCUMENTS = [
    Document(id=str(n), text=f"Um texto número {n}, com ç.", source="s", license="CC0-1.0")
    for n in range(40)
]


def write(folder: Path, **options: int) -> DocumentWriter:
    with DocumentWriter(folder, "train", **options) as writer:
        for document in DOCUMENTS:
            writer.write(document)
    return writer


def test_documents_are_read_back_in_order(tmp_path: Path) -> None:
    writer = write(tmp_path)
    assert list(read_documents(tmp_path, "train")) == DOCUMENTS
    assert writer.num_documents == 40
    assert writer.num_bytes == sum(document.num_bytes for document in DOCUMENTS)


def test_shards_have_a_limit_and_equal_documents_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", bytes_per_shard=500)
    write(tmp_path / "b", bytes_per_shard=500)
    paths = document_paths(tmp_path / "a", "train")
    assert len(paths) > 5
    assert list(read_documents(tmp_path / "a", "train")) == DOCUMENTS
    for one, other in zip(paths, document_paths(tmp_path / "b", "train"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_only_conversations_have_messages() -> None:
    assert "messages" not in document_row(DOCUMENTS[0])
    chat = Document("a", "Oi", "s", "MIT", messages=[{"role": "user", "content": "Oi"}])
    assert document_row(chat)["messages"] == chat.messages


def test_missing_and_damaged_shards_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        list(read_documents(tmp_path, "heldout"))
    assert error.value.code == "documents-missing"
    write(tmp_path)
    (path,) = document_paths(tmp_path, "train")
    path.write_bytes(b"x" * 80)
    with pytest.raises(UserError) as error:
        list(read_documents(tmp_path, "train"))
    assert error.value.code == "documents-damaged"
    assert str(path) in error.value.where


def test_a_shard_that_is_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    (path,) = document_paths(tmp_path, "train")
    whole = path.read_bytes()
    for size in {0, 1, 4, 9, *range(12, len(whole), 29), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="documents-damaged"):
            list(read_documents(tmp_path, "train"))
