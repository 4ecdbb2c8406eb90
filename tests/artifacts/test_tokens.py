from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from teenytinyllama.artifacts import file_hashes, tokens
from teenytinyllama.artifacts.manifest import sha256_file
from teenytinyllama.artifacts.tokens import TokenWriter, open_tokens, read_index, write_index
from teenytinyllama.errors import UserError

TRAIN = [[1, 7, 8, 9, 2], [1, 2], [1, 300, 2]]
FILES = ("index.json", "train.bin", "train.documents.bin", "heldout.bin", "heldout.documents.bin")


def write(
    folder: Path, documents: dict[Literal["train", "heldout"], list[list[int]]], vocab_size: int
) -> Path:
    entries = {}
    for split, rows in documents.items():
        with TokenWriter(folder, split, vocab_size) as writer:
            for row in rows:
                writer.write(row)
        entries[split] = writer.entry
    write_index(folder, vocab_size, "0" * 64, entries)
    return folder


@pytest.fixture
def tokens_dir(tmp_path: Path) -> Path:
    return write(tmp_path, {"train": TRAIN, "heldout": [[1, 5, 2]]}, 400)


def test_written_tokens_are_read_back(tokens_dir: Path) -> None:
    train = open_tokens(tokens_dir, "train", verify=True)
    assert [train.document(i).tolist() for i in range(train.num_documents)] == TRAIN
    assert train.sequence(1, 3).tolist() == [9, 2, 1, 2]  # the last of one row opens the next
    assert train.num_sequences(3) == 3
    with pytest.raises(IndexError):
        train.sequence(3, 3)
    index = read_index(tokens_dir)
    assert index["splits"]["train"]["num_tokens"] == 10
    assert index["splits"]["train"]["tokens"]["bytes"] == 20


@pytest.mark.parametrize(
    ("vocab_size", "bytes_per_token"), [(65_535, 2), (65_536, 2), (65_537, 4), (70_000, 4)]
)
def test_the_largest_id_is_kept(tmp_path: Path, vocab_size: int, bytes_per_token: int) -> None:
    row = [1, 0, vocab_size - 1, min(65_535, vocab_size - 1), 2]
    write(tmp_path, {"train": [row], "heldout": [[1, 2]]}, vocab_size)
    train = open_tokens(tmp_path, "train", verify=True)
    assert train.document(0).tolist() == row
    assert (tmp_path / "train.bin").stat().st_size == bytes_per_token * len(row)


@pytest.mark.parametrize(("wrong", "said"), [([1, 400, 2], 400), ([1, -1, 2], -1)])
def test_ids_outside_the_vocabulary_are_refused(
    tmp_path: Path, wrong: list[int], said: int
) -> None:
    with (
        pytest.raises(UserError, match=f"document 1 - id {said} is outside the vocabulary of 400"),
        TokenWriter(tmp_path, "train", 400) as writer,
    ):
        writer.write([1, 2])
        writer.write(wrong)


def test_ids_that_are_not_integers_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(TypeError, match="got float64"),
        TokenWriter(tmp_path, "train", 400) as writer,
    ):
        writer.write([1.0, 2.5])


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("train.bin", lambda data: data[:-1], "tokens-size"),
        ("train.bin", lambda data: data + b"\0\0", "tokens-size"),
        ("train.bin", lambda data: data[:4] + b"\x09" + data[5:], "tokens-damaged"),
        ("train.documents.bin", lambda data: data[:-8], "tokens-size"),
        ("train.documents.bin", lambda data: b"\x01" + data[1:], "tokens-damaged"),
        ("index.json", lambda data: data.replace(b"400", b"500"), "tokens-index"),
        ("index.json", lambda data: data[:-9], "tokens-index"),
        ("index.json", lambda data: b"[]", "tokens-index"),
        ("index.json", lambda data: b"{}", "tokens-index"),
    ],
)
def test_a_changed_file_is_an_error(tokens_dir: Path, name: str, change, code: str) -> None:  # type: ignore[no-untyped-def]
    path = tokens_dir / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        open_tokens(tokens_dir, "train", verify=True)
    assert (caught.value.code, caught.value.where) == (code, str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tokens_dir: Path) -> None:
    (tokens_dir / "heldout.bin").rename(tokens_dir / "heldout-0.bin")
    with pytest.raises(UserError, match=r"tokens-missing\].*heldout\.bin - is in the index"):
        open_tokens(tokens_dir, "heldout")


def test_wrong_document_starts_are_found_without_hashes(tokens_dir: Path) -> None:
    path = tokens_dir / "train.documents.bin"
    starts = np.fromfile(path, "<u8")
    starts[-1] += 1
    starts.tofile(path)
    with pytest.raises(UserError, match="tokens-document-starts"):
        open_tokens(tokens_dir, "train")


@pytest.mark.parametrize(("key", "value"), [("byte_order", "big"), ("dtype", "uint32")])
def test_another_number_format_is_refused(tokens_dir: Path, key: str, value: str) -> None:
    from teenytinyllama.artifacts import tokens

    index = json.loads((tokens_dir / "index.json").read_bytes())
    del index["check_sum"]
    index[key] = value
    (tokens_dir / "index.json").write_text(tokens._to_text(tokens._with_checksum(index)))
    with pytest.raises(UserError, match=r"tokens-dtype.*expected little-endian uint16"):
        read_index(tokens_dir)


def test_500_truncations_and_flips_are_all_found(tokens_dir: Path) -> None:
    generator = random.Random(15)
    whole = {name: (tokens_dir / name).read_bytes() for name in FILES}
    missed = []
    for trial in range(500):
        name = FILES[trial % len(FILES)]
        data = bytearray(whole[name])
        place = generator.randrange(len(data))
        if trial % 2:
            del data[place:]
        else:
            data[place] ^= 1 << generator.randrange(8)
        (tokens_dir / name).write_bytes(data)
        try:
            for split in ("train", "heldout"):
                open_tokens(tokens_dir, split, verify=True)
            missed.append((name, place))
        except UserError:
            pass
        (tokens_dir / name).write_bytes(whole[name])
    assert missed == []


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize(
    ("starts", "said"),
    [([0, 5, 7, 10], None), ([1, 5, 7, 10], "document-starts"), ([0, 7, 5, 10], "document-starts")],
)
def test_document_starts_are_read_in_parts(
    tokens_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    starts: list[int],
    said: str | None,
) -> None:
    monkeypatch.setattr(tokens, "STARTS_PER_READ", at_once)
    np.array(starts, "<u8").tofile(tokens_dir / "train.documents.bin")
    if said is None:
        assert open_tokens(tokens_dir, "train").num_documents == 3
    else:
        with pytest.raises(UserError, match=said):
            open_tokens(tokens_dir, "train")


def test_a_large_file_is_hashed_again_only_after_a_write(
    tokens_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(file_hashes, "sha256_file", counting)
    monkeypatch.setattr(file_hashes, "TICK_NS", -(10**12))
    open_tokens(tokens_dir, "train", verify=True)
    open_tokens(tokens_dir, "train", verify=True)
    assert len(hashed) == 4  # small files: every time
    monkeypatch.setattr(file_hashes, "MIN_REMEMBERED_BYTES", 0)
    for _ in range(2):
        open_tokens(tokens_dir, "train", verify=True)
    assert hashed[4:] == ["train.bin", "train.documents.bin"]
    data = bytearray((tokens_dir / "train.bin").read_bytes())
    data[3] ^= 1
    stat = (tokens_dir / "train.bin").stat()
    (tokens_dir / "train.bin").write_bytes(data)
    os.utime(tokens_dir / "train.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UserError, match="its bytes changed"):
        open_tokens(tokens_dir, "train", verify=True)
