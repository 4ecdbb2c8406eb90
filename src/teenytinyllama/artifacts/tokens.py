"""Token sequences: what the pack stage writes, readable at any position in constant time.

    pack/index.json             dtype, vocabulary size, counts, hashes, tokenizer's fingerprint
    pack/train.bin              all training tokens, a flat array of unsigned integers
    pack/train.documents.bin    uint64: the position where each document starts, then the end
    pack/heldout.bin, pack/heldout.documents.bin

Sequence `i` of length `T` is `tokens[i * T : i * T + T + 1]`: inputs are all but the last token,
targets all but the first. Every token is predicted once, except those of an incomplete last row.
A document begins with BOS and ends with EOS.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from teenytinyllama.artifacts.documents import Split
from teenytinyllama.artifacts.file_hashes import FileHashes
from teenytinyllama.artifacts.manifest import (
    sha256_file,
    write_atomically,
)
from teenytinyllama.errors import UserError

INDEX_NAME = "index.json"
INDEX_KEYS = ("dtype", "byte_order", "vocab_size", "tokenizer", "splits")
MAX_UINT16_VOCABULARY = 65_536
FIX = "run `ttl pack RECIPE --redo`"
STARTS_PER_READ = 1 << 18


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """Smallest unsigned integer type for all ids: 2 bytes up to 65,536 tokens, else 4.

    >>> [str(dtype_for(size)) for size in (32_000, 65_536, 65_537)]
    ['uint16', 'uint16', 'uint32']
    """
    return np.dtype("<u2") if vocab_size <= MAX_UINT16_VOCABULARY else np.dtype("<u4")


@dataclass(frozen=True)
class TokenFile:
    """One split, memory-mapped: only what is accessed is read from disk."""

    path: Path
    tokens: NDArray[Any]  # (num_tokens,) uint16 or uint32
    document_starts: NDArray[np.uint64]  # (num_documents + 1,); the last entry is num_tokens
    vocab_size: int

    @property
    def num_tokens(self) -> int:
        """Tokens in this split, BOS and EOS included."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        """Documents in this split."""
        return len(self.document_starts) - 1

    def num_sequences(self, sequence_length: int) -> int:
        """Number of complete rows of `sequence_length` inputs with their targets."""
        return max(0, (self.num_tokens - 1) // sequence_length)

    def sequence(self, index: int, sequence_length: int) -> NDArray[np.int64]:
        """Row `index`: `sequence_length + 1` ids, the inputs and one more target."""
        start = index * sequence_length
        row = self.tokens[start : start + sequence_length + 1]
        if len(row) != sequence_length + 1:
            raise IndexError(
                f"sequence {index} is beyond the {self.num_tokens} tokens of {self.path}"
            )
        return row.astype(np.int64)

    def documents_in(self, index: int, sequence_length: int) -> list[int]:
        """Numbers of the documents that sequence `index` has tokens of."""
        start = np.uint64(index * sequence_length)
        first = np.searchsorted(self.document_starts, start, side="right") - 1
        end = start + np.uint64(sequence_length)
        last = np.searchsorted(self.document_starts, end, side="left") - 1
        return list(range(int(first), int(last) + 1))

    def document(self, index: int) -> NDArray[np.int64]:
        """All ids of one document, from its BOS to its EOS."""
        start, end = int(self.document_starts[index]), int(self.document_starts[index + 1])
        return self.tokens[start:end].astype(np.int64)


def read_index(tokens_dir: Path) -> dict[str, Any]:
    """The index of a tokens folder.

    Raises UserError where it is missing, differs from what `write_index` wrote, or has a number
    format that this package does not use.
    """
    path = tokens_dir / INDEX_NAME
    try:
        raw = path.read_bytes()
        index: dict[str, Any] = json.loads(raw)
        as_written = _with_checksum({key: index[key] for key in INDEX_KEYS})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = (
            f"has no field {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        )
        raise UserError("tokens-index", str(path), what, "run `ttl pack RECIPE` first") from error
    if raw.decode("utf-8") != _to_text(as_written):
        what = "changed since it was written: its checksum does not match"
        raise UserError("tokens-index", str(path), what, FIX)
    expected = str(dtype_for(index["vocab_size"]))
    if index["dtype"] != expected or index["byte_order"] != "little":
        what = (
            f"says {index['byte_order']}-endian {index['dtype']}, expected little-endian {expected}"
        )
        raise UserError("tokens-dtype", str(path), what, FIX)
    return index


def open_tokens(tokens_dir: Path, split: Split, *, verify: bool = False) -> TokenFile:
    """Memory-map one split. Sizes and document starts are always checked against the index.

    With `verify` hashes are checked as well; those of large files once, and again after a write.
    Raises UserError where a file is missing, has another size than the index says or, with
    `verify`, another content.
    """
    index = read_index(tokens_dir)
    dtype = np.dtype(index["dtype"]).newbyteorder("<")
    entry = index["splits"][split]
    paths = {
        "tokens": tokens_dir / f"{split}.bin",
        "documents": tokens_dir / f"{split}.documents.bin",
    }
    for name, path in paths.items():
        _check_file(path, entry[name], verify=verify)
    tokens = TokenFile(
        path=paths["tokens"],
        tokens=_map(paths["tokens"], dtype),
        document_starts=_map(paths["documents"], np.dtype("<u8")),
        vocab_size=int(index["vocab_size"]),
    )
    if not _document_starts_fit(paths["documents"], tokens.num_tokens):
        what = f"document starts do not rise from 0 to the split's {tokens.num_tokens:,} tokens"
        raise UserError("tokens-document-starts", str(paths["documents"]), what, FIX)
    return tokens


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A file as an array that is read on access, without readahead.

    Rows are read in random order: the kernel would read up to 8 MB ahead of each (2.7 ms of CPU a
    row, and a busy disk).
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return np.zeros(0, dtype)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype)


def _document_starts_fit(path: Path, num_tokens: int) -> bool:
    """Whether the starts rise from 0 to `num_tokens`; read in parts, to keep memory small."""
    last, size = 0, path.stat().st_size // 8
    for begin in range(0, size, STARTS_PER_READ):
        starts = np.fromfile(path, np.dtype("<u8"), STARTS_PER_READ, offset=8 * begin)
        if (begin == 0 and starts[0] != 0) or starts[0] < last or (starts[1:] < starts[:-1]).any():
            return False
        last = int(starts[-1])
    return size > 0 and last == num_tokens


def _check_file(path: Path, entry: dict[str, Any], *, verify: bool) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found is None:
        raise UserError("tokens-missing", str(path), "is in the index but missing", FIX)
    if found != entry["bytes"]:
        what = f"has {found:,} bytes, the index says {entry['bytes']:,}"
        raise UserError("tokens-size", str(path), what, FIX)
    if not verify:
        return
    hashes = FileHashes(path.parent)
    if hashes.sha256(path) != entry["sha256"]:
        what = "its bytes changed since they were packed"
        raise UserError("tokens-damaged", str(path), what, FIX)
    hashes.save_if_large(found)  # a training that resumes must not wait for it


class TokenWriter:
    """Writes the documents of one split one after another: `writer.write(ids)` per document.

    After the `with` block `entry` is the split's part of the index. Raises UserError for an id
    outside the vocabulary, which numpy would silently wrap to another one.
    """

    def __init__(self, out_dir: Path, split: Split, vocab_size: int) -> None:
        self.out_dir, self.split, self.vocab_size = out_dir, split, vocab_size
        self.dtype = dtype_for(vocab_size)
        self.num_tokens = 0
        self.entry: dict[str, Any] = {}
        self._starts = [0]
        self._file: io.BufferedWriter | None = None

    def __enter__(self) -> Self:
        self._file = (self.out_dir / f"{self.split}.bin").open("wb")
        return self

    def write(self, ids: ArrayLike) -> None:
        """Append one document, BOS and EOS included."""
        assert self._file is not None
        given = np.asarray(ids)
        if given.size and given.dtype.kind not in "ui":
            raise TypeError(f"token ids are whole numbers, got {given.dtype}")
        row = given.astype(np.int64, copy=False)
        if row.size and not (row.min() >= 0 and row.max() < self.vocab_size):
            wrong = row[(row < 0) | (row >= self.vocab_size)][0]
            raise UserError(
                "token-out-of-range",
                f"{self.split}, document {len(self._starts) - 1}",
                f"id {wrong} is outside the vocabulary of {self.vocab_size:,}",
                "run `ttl tokenizer RECIPE --redo`",
            )
        self._file.write(row.astype(self.dtype).tobytes())
        self.num_tokens += row.size
        self._starts.append(self.num_tokens)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is not None:
            return
        starts = self.out_dir / f"{self.split}.documents.bin"
        with starts.open("wb") as file:
            file.write(np.array(self._starts, "<u8").tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.entry = {
            "tokens": _describe(self.out_dir / f"{self.split}.bin"),
            "documents": _describe(starts),
            "num_tokens": self.num_tokens,
            "num_documents": len(self._starts) - 1,
        }


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def write_index(
    out_dir: Path,
    vocab_size: int,
    tokenizer_fingerprint: str,
    entries: Mapping[Split, Mapping[str, Any]],
) -> None:
    """Write `index.json` from the `entry` of each split's writer, last of the folder's files."""
    index = {
        "dtype": str(dtype_for(vocab_size)),
        "byte_order": "little",
        "vocab_size": vocab_size,
        "tokenizer": tokenizer_fingerprint,
        "splits": {split: dict(entry) for split, entry in entries.items()},
    }
    write_atomically(out_dir / INDEX_NAME, _to_text(_with_checksum(index)))


def _with_checksum(index: dict[str, Any]) -> dict[str, Any]:
    """The index with a checksum of itself."""
    return {**index, "check_sum": hashlib.sha256(_to_text(index).encode("utf-8")).hexdigest()}


def _to_text(index: dict[str, Any]) -> str:
    return json.dumps(index, indent=2, sort_keys=True) + "\n"
