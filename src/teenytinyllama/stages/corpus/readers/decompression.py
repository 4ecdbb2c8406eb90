"""The decompressed bytes of a file as a bounded stream.

The compression is detected from the first bytes, not from the name. A file that is truncated or
damaged yields everything before the damage, then raises `DamagedFileError`; a decompression bomb is
stopped.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from teenytinyllama.errors import UserError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
CHUNK_BYTES = 1 << 20
# One zstandard block of 4 bytes may hold 128 kB: small slices keep a bomb's chunk below 32 MB.
SLICE_BYTES = 1024
# Text compresses 2 to 10 times. A file beyond this size that grew 200 times is not text.
BOMB_AFTER_BYTES, BOMB_RATIO = 16 << 20, 200
OTHER_FORMATS = {
    b"PK\x03\x04": ("a zip archive", "unzip {0}"),
    b"PK\x05\x06": ("a zip archive", "unzip {0}"),
    b"BZh": ("packed by bzip2", "bunzip2 -c {0} | zstd > {1}.zst"),
    b"\xfd7zXZ\x00": ("packed by xz", "xz -dc {0} | zstd > {1}.zst"),
    b"7z\xbc\xaf'\x1c": ("a 7z archive", "7z x {0}"),
    b"%PDF-": ("a PDF document", "pdftotext {0}"),
    b"PAR1": ("a parquet table", "mv {0} {1}.parquet"),
}


class DamagedFileError(Exception):
    """The rest of a file cannot be decompressed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def chunks_of(path: Path, notes: Counter[str]) -> Iterator[bytes]:
    """The decompressed bytes of a file, in chunks of at most 32 MB.

    `notes` counts what is odd but harmless: a name that says another compression, garbage after
    the end. Raises DamagedFileError after the last good byte, UserError for an archive.
    """
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        for magic, (what, fix) in OTHER_FORMATS.items():
            if head.startswith(magic):
                stem = path.name.split(".")[0]
                raise UserError(
                    "file-packing",
                    str(path),
                    f"is {what}, expected plain, gzip or zstandard text",
                    fix.format(path, stem),
                )
        if head[257:262] == b"ustar":
            raise UserError("file-packing", str(path), "is a tar archive", f"tar -xf {path}")
        packed = {GZIP: "gz", ZSTD: "zst"}.get(head[:2], "") or {ZSTD: "zst"}.get(head[:4], "")
        promised = path.suffix.lstrip(".") if path.suffix in (".gz", ".zst") else ""
        if packed != promised and head:
            notes["packing-not-as-named"] += 1
        unpack = {"gz": _gunzip, "zst": _unzstd, "": _plain}[packed]
        made = 0
        for chunk in unpack(file, notes):
            made += len(chunk)
            yield chunk
            if made > BOMB_AFTER_BYTES and made > BOMB_RATIO * file.tell():
                raise DamagedFileError(
                    "decompression-bomb", f"grew {BOMB_RATIO} times, stopped at {made}"
                )


def _plain(file: BinaryIO, _notes: Counter[str]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _gunzip(file: BinaryIO, notes: Counter[str]) -> Iterator[bytes]:
    inflate = zlib.decompressobj(31)
    while data := file.read(CHUNK_BYTES // 16):
        while data:
            before = inflate.copy()
            try:
                made = inflate.decompress(data, CHUNK_BYTES)
            except zlib.error as error:
                yield _inflate_to_damage(before, data)
                raise DamagedFileError(
                    "gzip-corrupt", f"{error} near byte {file.tell()}"
                ) from error
            if made:
                yield made
            if not inflate.eof:
                data = inflate.unconsumed_tail
                continue
            data = inflate.unused_data
            if len(data) < len(GZIP):
                data += file.read(CHUNK_BYTES // 16)
            if not data:
                return
            if data[:2] == GZIP:
                inflate = zlib.decompressobj(31)
            else:
                if data.strip(b"\0"):
                    notes["garbage-after-gzip"] += 1
                return
    if not inflate.eof:
        raise DamagedFileError("gzip-truncated", f"member truncated at byte {file.tell()}")


def _inflate_to_damage(inflate: zlib._Decompress, data: bytes) -> bytes:
    """Every byte before the damaged one: a call that fails returns nothing of its output."""
    made = []
    try:
        for start in range(len(data)):
            made.append(inflate.decompress(data[start : start + 1]))
    except zlib.error:
        pass
    return b"".join(made)


def _unzstd(file: BinaryIO, notes: Counter[str]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    stream = decompressor.decompressobj()
    while data := file.read(CHUNK_BYTES):
        view, at = data, 0
        while at < len(view):
            piece = view[at : at + SLICE_BYTES]
            at += SLICE_BYTES
            try:
                made = stream.decompress(piece)
            except zstandard.ZstdError as error:
                where = file.tell() - len(view) + at
                raise DamagedFileError("zstd-corrupt", f"{error} near byte {where}") from error
            if made:
                yield made
            if stream.eof:
                rest = stream.unused_data + view[at:]
                rest = rest or file.read(CHUNK_BYTES)
                if not rest:
                    return
                if rest[:4] != ZSTD[: len(rest[:4])]:
                    notes["garbage-after-zstd"] += 1
                    return
                stream = decompressor.decompressobj()
                view, at = rest, 0
    if not stream.eof:
        raise DamagedFileError("zstd-truncated", f"frame truncated at byte {file.tell()}")
