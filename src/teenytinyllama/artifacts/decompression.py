"""The decompressed bytes of a file as a bounded stream: gzip, Zstandard, bzip2 and xz.

The compression is detected from the first bytes, not from the name. Everything that the formats
allow is read: several members, frames or streams, skippable frames, padding of zeros, the
dictionary at the start of a `.warc.zst`. A file that is truncated or damaged yields everything
before the damage, then raises `DamagedFileError`; a decompression bomb is stopped. What is packed
in another way, or twice, is named with the command that unpacks it.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import zstandard

from teenytinyllama.errors import UserError
from teenytinyllama.regular_files import open_regular

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
TOOLS = {"gz": "gzip", "zst": "zstd", "bz2": "bzip2", "xz": "xz"}
CHUNK_BYTES = 1 << 20
TABLE_OR_JSON = re.compile(r"(?i)\.(jsonl?|ndjson|csv|tsv|parquet)(\.(gz|zst|bz2|xz))?$")
READ_BYTES = 1 << 16
# A damaged piece loses what was made from it together with what was good before it: small pieces.
PIECE_BYTES = 1 << 15
# One Zstandard block of 4 bytes may hold 128 kB: small slices keep a bomb's chunk below 32 MB.
SLICE_BYTES = 1024
# Text compresses 2 to 10 times. A file beyond this size that grew 200 times is not text.
BOMB_AFTER_BYTES, BOMB_RATIO = 16 << 20, 200
# `zstd` and `xz` themselves ask for an option above this; ours may take no gigabytes.
MAX_WINDOW_BYTES = 1 << 27
GZIP, ZSTD, BZIP2, XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00"
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
"""Zstandard's skippable frames: pzstd, seekable files and others keep their own data in them."""
WARC_DICTIONARY = 0x184D2A5D
"""The skippable frame that begins a WARC file in Zstandard holds the dictionary of the others,
itself compressed or not (IIPC, "The WARC Zstandard format 1.0")."""
MAX_DICTIONARY_BYTES = 16 << 20
BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
_LEGACY_ZSTD = [bytes([first]) + b"\xb5\x2f\xfd" for first in (0x1E, *range(0x22, 0x28))]
_INFLATE = "python -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(open(sys.argv[1], \"rb\").read()))'"  # noqa: E501
OFFICE = (
    "a document of an office program or a book",
    'in its program: save as "CSV UTF-8" or text',
)
OTHER_FORMATS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": OFFICE,
    b"PK\x03\x04": ("a zip archive", "unzip {0}"),
    b"PK\x05\x06": ("a zip archive", "unzip {0}"),
    b"7z\xbc\xaf'\x1c": ("a 7z archive", "7z x {0}"),
    b"\x04\x22\x4d\x18": ("compressed by lz4", "lz4 -dc {0} | zstd > {1}.zst"),
    b"\x02\x21\x4c\x18": ("compressed by lz4", "lz4 -dc {0} | zstd > {1}.zst"),
    b"\x5d\0\0": ("compressed in the old format of lzma", "xz -dc {0} | xz > {1}.xz"),
    b"\x1f\x9d": ("compressed by compress", "gzip -dc {0} | gzip > {1}.gz"),
    b"LZIP\x01": ("compressed by lzip", "lzip -dc {0} | xz > {1}.xz"),
    b"\x89LZO\0": ("compressed by lzop", "lzop -dc {0} | zstd > {1}.zst"),
    b"\xff\x06\0\0sNaPpY": ("compressed by Snappy", "snzip -dc {0} | zstd > {1}.zst"),
    **{
        start: ("a zlib stream", f"{_INFLATE} {{0}} | gzip > {{1}}.gz")
        for start in (b"x\x01", b"x\x9c", b"x\xda")
    },
    **{
        start: ("compressed by zstd before 1.0", "zstd -dc {0} | zstd > {1}.zst")
        for start in _LEGACY_ZSTD
    },
    b"Rar!\x1a\x07": ("a rar archive", "unrar x {0}"),
    b"%PDF-": ("a PDF document", "mv {0} {1}.pdf"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "git lfs pull"),
    b"PAR1": ("a parquet table", "mv {0} {1}.parquet"),
}


class DamagedFileError(Exception):
    """The rest of a file cannot be decompressed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def chunks_of(path: Path, notes: Counter[str], *, bomb_ratio: int = BOMB_RATIO) -> Generator[bytes]:
    """The decompressed bytes of a file, in chunks of at most 32 MB.

    `notes` counts what is odd but harmless (a name that says another compression, garbage after
    the end) and the compressed bytes that were not read. Raises DamagedFileError after the last
    good byte, UserError for an archive or what is no regular file. `bomb_ratio` 0: for our own
    files, which may grow without limit.
    """
    return (chunk for chunk, _ in chunks_and_positions(path, notes, bomb_ratio=bomb_ratio))


def chunks_and_positions(
    path: Path, notes: Counter[str], *, bomb_ratio: int = BOMB_RATIO
) -> Generator[tuple[bytes, int]]:
    """As `chunks_of`, each chunk with the compressed bytes that were taken so far."""
    with open_regular(path) as file:
        head = file.read(512)
        file.seek(0)
        refuse_archives(head, path)
        packed = compression_of(head)
        suffix = path.suffix.lower()
        named = suffix[1:] if suffix in COMPRESSED_SUFFIXES else ""
        if packed != named and head:
            notes["packing-not-as-named"] += 1
        source = _Source(file, path)
        made = 0
        try:
            for chunk in _in_chunks(_read(packed, source, notes)):
                if packed and not made:
                    _refuse_packed_twice(chunk[:512], packed, path)
                made += len(chunk)
                yield chunk, source.position
                if bomb_ratio and made > BOMB_AFTER_BYTES and made > bomb_ratio * source.position:
                    raise DamagedFileError(
                        "decompression-bomb", f"grew {bomb_ratio} times, stopped at {made}"
                    )
        except DamagedFileError:
            notes["bytes-not-read"] += source.size - source.position
            raise


def open_decompressed(path: Path, *, bomb_ratio: int = BOMB_RATIO) -> io.BufferedReader:
    """The decompressed bytes of a file to read from. Reading raises what `chunks_of` raises."""
    return open_chunks(chunks_of(path, Counter(), bomb_ratio=bomb_ratio))


def open_chunks(chunks: Iterator[bytes]) -> io.BufferedReader:
    """Chunks as a file to read from."""
    return io.BufferedReader(_ChunkFile(chunks), CHUNK_BYTES)


def compression_of(head: bytes) -> str:
    r"""What the first bytes of a file say: `gz`, `zst`, `bz2`, `xz`, or "" for none of these.

    >>> compression_of(b"BZh is how the story begins"), compression_of(b"\x5a*M\x18")
    ('', 'zst')
    """
    if head.startswith(GZIP):
        return "gz"
    if head.startswith(ZSTD) or _is_skippable(head):
        return "zst"
    if head.startswith(XZ):
        return "xz"
    # Text may begin with "BZh" too.
    return "bz2" if head.startswith(BZIP2) and head[4:10] in BZIP2_BLOCKS else ""


def _is_skippable(head: bytes) -> bool:
    return len(head) >= 4 and int.from_bytes(head[:4], "little") in SKIPPABLE


def _may_begin(head: bytes, start: bytes) -> bool:
    """Whether a file that ends with these bytes was cut inside the magic number of a part."""
    cut_frame = start == ZSTD and len(head) < 4 and _is_skippable(head + b"P*M\x18"[len(head) :])
    return start.startswith(head) or cut_frame


def _archive(head: bytes) -> tuple[str, str]:
    """What an archive or a file of another compression is, and what unpacks it; else empty."""
    if head.startswith(b"PK") and (b"[Content_Types].xml" in head or head[30:38] == b"mimetype"):
        return OFFICE
    for magic, found in OTHER_FORMATS.items():
        if head.startswith(magic):
            return found
    return ("a tar archive", "tar -xf {0}") if head[257:262] == b"ustar" else ("", "")


def is_html(head: bytes) -> bool:
    """Whether a file begins as a page of HTML, whatever its name says."""
    start = head.removeprefix(BOM_UTF8).lstrip()[:15].lower()
    return start.startswith((b"<!doctype html", b"<html"))


def refuse_archives(head: bytes, path: Path) -> None:
    """Raise UserError for what other programs unpack or fetch, and for a page in place of data."""
    if is_html(head) and TABLE_OR_JSON.search(path.name):
        raise UserError(
            "file-kind",
            str(path),
            "is a page of HTML, not data as its name says",
            "download the file itself, not the page about it; a page to read is named .html",
        )
    what, fix = _archive(head)
    if what:
        raise UserError(
            "file-packing",
            str(path),
            f"is {what}, expected plain text or gzip, zstandard, bzip2, xz",
            fix.format(path, path.name.split(".")[0]),
        )


def _refuse_packed_twice(head: bytes, packed: str, path: Path) -> None:
    """Raise UserError where what was decompressed is packed itself, as servers often leave it."""
    inside = compression_of(head)
    what = f"compressed by {TOOLS[inside]}" if inside else _archive(head)[0]
    if what:
        name, suffix = path.name.split(".")[0], "".join(path.suffixes[:1])
        raise UserError(
            "file-packing",
            str(path),
            f"holds, compressed by {TOOLS[packed]}, what is {what}",
            f"{TOOLS[packed]} -dc {path} > {name}-once{suffix}, and give that",
        )


class _Source:
    """The compressed bytes of a file: a decompressor takes some and gives back what it left."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self._held, self._at = b"", 0
        self.dictionary: zstandard.ZstdCompressionDict | None = None
        """Of the Zstandard frames that follow."""

    @property
    def position(self) -> int:
        """Compressed bytes taken."""
        return self._file.tell() - len(self._held) + self._at

    def take(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        if self._at == len(self._held):
            self._held, self._at = self._file.read(max(size, READ_BYTES)), 0
        taken = self._held[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def give_back(self, rest: bytes) -> None:
        """Return bytes that were taken last and not used."""
        if len(rest) <= self._at:
            self._at -= len(rest)
        else:
            self._held, self._at = rest + self._held[self._at :], 0

    def peek(self, size: int) -> bytes:
        """The next bytes without taking them."""
        if len(self._held) - self._at < size:
            self._held, self._at = self._held[self._at :] + self._file.read(READ_BYTES), 0
        return self._held[self._at : self._at + size]

    def skip(self, size: int) -> bool:
        """Skip bytes without holding them; whether the file has them."""
        while size and (taken := self.take(min(size, READ_BYTES))):
            size -= len(taken)
        return not size

    def skip_zeros(self) -> None:
        """Skip padding."""
        while taken := self.take(READ_BYTES):
            if rest := taken.lstrip(b"\0"):
                self.give_back(rest)
                return


def _in_chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Small pieces joined to chunks of about 1 MB."""
    held: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size >= CHUNK_BYTES:
                yield b"".join(held)
                held, size = [], 0
    except DamagedFileError:
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


def _read(packed: str, source: _Source, notes: Counter[str]) -> Iterator[bytes]:
    """Every part of a file: a gzip member, a Zstandard frame, a bzip2 or xz stream."""
    if not packed:
        while data := source.take(CHUNK_BYTES):
            yield data
        return
    start, name, _ = _PARTS[packed]
    while head := source.peek(10):
        # A file may hold parts of several formats, as `cat` joins them and `zstd -dc` reads them.
        kind = packed if head.startswith(start) else compression_of(head)
        if kind == "zst" and not head.startswith(ZSTD):
            _skippable_frame(source)
        elif kind:
            yield from _PARTS[kind][2](source)
        elif _may_begin(head, start):
            raise _truncated(name, "header", source)
        else:
            # The tools pad to blocks of a tape or a disk; more of the file may follow.
            before = source.position
            source.skip_zeros()
            if source.position == before:
                notes[f"garbage-after-{name}"] += 1
                notes["bytes-not-read"] += source.size - source.position
                return


def _skippable_frame(source: _Source) -> None:
    """Skip one; keep the dictionary that it may hold at the start of the file."""
    is_first = not source.position
    header = source.take(8) if len(source.peek(8)) == 8 else b""
    size = int.from_bytes(header[4:], "little")
    if is_first and int.from_bytes(header[:4], "little") == WARC_DICTIONARY:
        if size > MAX_DICTIONARY_BYTES:
            raise DamagedFileError("zstd-corrupt", f"a dictionary of {size:,} bytes")
        held = b""
        while len(held) < size and (taken := source.take(size - len(held))):
            held += taken
        if len(held) == size:
            source.dictionary = _warc_dictionary(held)
            return
        header = b""
    if not header or not source.skip(size):
        raise _truncated("zstd", "skippable frame", source)


def _warc_dictionary(data: bytes) -> zstandard.ZstdCompressionDict:
    try:
        if data.startswith(ZSTD):
            unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
            with unpack.stream_reader(data) as reader:
                data = reader.read(MAX_DICTIONARY_BYTES)
        return zstandard.ZstdCompressionDict(data)
    except (zstandard.ZstdError, ValueError) as error:
        raise DamagedFileError("zstd-corrupt", f"the dictionary: {error}") from error


def _truncated(name: str, part: str, source: _Source) -> DamagedFileError:
    source.skip(source.size)
    return DamagedFileError(f"{name}-truncated", f"{part} truncated at byte {source.size}")


def _gzip_member(source: _Source) -> Iterator[bytes]:
    inflate = zlib.decompressobj(31)
    while not inflate.eof:
        data = source.take(READ_BYTES)
        if not data:
            raise _truncated("gzip", "member", source)
        before = inflate.copy()
        try:
            made = inflate.decompress(data, CHUNK_BYTES)
        except zlib.error as error:
            good, used = _inflate_to_damage(before, data)
            source.give_back(data[used:])
            yield good
            raise DamagedFileError(
                "gzip-corrupt", f"{error} near byte {source.position}"
            ) from error
        source.give_back(inflate.unconsumed_tail)
        yield made
    source.give_back(inflate.unused_data)


def _inflate_to_damage(inflate: zlib._Decompress, data: bytes) -> tuple[bytes, int]:
    """Every byte before the damaged one, and where that is.

    A call that fails returns nothing of its output.
    """
    made = []
    start = 0
    try:
        for start in range(len(data)):
            made.append(inflate.decompress(data[start : start + 1]))
    except zlib.error:
        pass
    return b"".join(made), start


def _zstd_frame(source: _Source) -> Iterator[bytes]:
    unpack = zstandard.ZstdDecompressor(source.dictionary, max_window_size=MAX_WINDOW_BYTES)
    stream = unpack.decompressobj()
    while not stream.eof:
        data = source.take(SLICE_BYTES)
        if not data:
            raise _truncated("zstd", "frame", source)
        try:
            made = stream.decompress(data)
        except zstandard.ZstdError as error:
            source.give_back(data)
            if "too much memory" in str(error):
                command = f"zstd -dc --memory=2048MB {source.path} | zstd"
                raise _too_large(source, command) from error
            if "Dictionary mismatch" in str(error):
                raise UserError(
                    "file-packing",
                    str(source.path),
                    "is compressed with a dictionary that is kept in another file",
                    f"zstd -dc -D DICTIONARY {source.path} | zstd > {_stem(source.path)}.zst",
                ) from error
            raise DamagedFileError(
                "zstd-corrupt", f"{error} near byte {source.position}"
            ) from error
        if made:
            yield made
    source.give_back(stream.unused_data)


def _too_large(source: _Source, command: str) -> UserError:
    return UserError(
        "file-packing",
        str(source.path),
        f"needs a window of more than {MAX_WINDOW_BYTES >> 20} MB to be decompressed",
        f"{command} > {_stem(source.path)}-small.zst",
    )


def _stem(path: Path) -> str:
    """The name without the suffix of its compression."""
    return path.stem if path.suffix.lower() in COMPRESSED_SUFFIXES else path.name


class _Decompressor(Protocol):
    """What bz2 and lzma share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


def _bzip2_stream(source: _Source) -> Iterator[bytes]:
    return _stream("bzip2", bz2.BZ2Decompressor(), source)


def _xz_stream(source: _Source) -> Iterator[bytes]:
    # `xz -9` needs 65 MB.
    limited = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW_BYTES + (8 << 20))
    return _stream("xz", limited, source)


def _stream(name: str, stream: _Decompressor, source: _Source) -> Iterator[bytes]:
    while not stream.eof:
        data = source.take(READ_BYTES) if stream.needs_input else b""
        if stream.needs_input and not data:
            raise _truncated(name, "stream", source)
        try:
            made = stream.decompress(data, PIECE_BYTES)
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
            source.give_back(data)
            if "Memory usage limit" in str(error):
                raise _too_large(source, f"xz -dc {source.path} | zstd") from error
            raise DamagedFileError(
                f"{name}-corrupt", f"{error} near byte {source.position}"
            ) from error
        yield made
    source.give_back(stream.unused_data)


_PARTS: dict[str, tuple[bytes, str, Callable[[_Source], Iterator[bytes]]]] = {
    "gz": (GZIP, "gzip", _gzip_member),
    "zst": (ZSTD, "zstd", _zstd_frame),
    "bz2": (BZIP2, "bzip2", _bzip2_stream),
    "xz": (XZ, "xz", _xz_stream),
}
"""How each part of a file begins, what it is called, and how it is decompressed."""


class _ChunkFile(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close the file behind the chunks."""
        if isinstance(self._chunks, Generator):
            self._chunks.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """The next bytes."""
        into = memoryview(buffer).cast("B")
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._held = memoryview(chunk)
        size = min(len(into), len(self._held))
        into[:size] = self._held[:size]
        self._held = self._held[size:]
        return size
