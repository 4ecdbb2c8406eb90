"""Compressed files: truncated, damaged, misnamed, and bombs."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.corpus_stage import GOOD, Stage, json_lines
from support.corpus_stage import stage as stage

from teenytinyllama.artifacts.decompression import DamagedFileError, chunks_of, open_decompressed
from teenytinyllama.errors import UserError

LINES = json_lines(*GOOD)


MANY = [f"Documento número {n}: {GOOD[n % 4]} Fim do documento {n}." for n in range(400)]


def _blocks(data: bytes) -> bytes:
    """Zstandard in small blocks: a cut loses the block it falls in."""
    pack = zstandard.ZstdCompressor().compressobj()
    parts = []
    for start in range(0, len(data), 1000):
        parts.append(pack.compress(data[start : start + 1000]))
        parts.append(pack.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    return b"".join([*parts, pack.flush()])


@pytest.mark.parametrize("name", ["gz", "zst"])
def test_19_truncated_file_keeps_every_complete_document(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    whole = json_lines(*MANY)
    packed = gzip.compress(whole) if name == "gz" else _blocks(whole)
    path = tmp_path / f"a.jsonl.{name}"
    path.write_bytes(packed[: len(packed) // 2])
    left = stage(path)
    kept = left.counts["documents_kept"]
    assert 50 < kept < 390
    assert sorted(left.texts()) == sorted(MANY[:kept])
    (row,) = left.quarantine()
    assert row["reason"] == ("gzip-truncated" if name == "gz" else "zstd-truncated")
    assert row["line"] == kept + 1
    assert f"truncated at byte {len(packed) // 2}" in row["detail"]
    assert left.counts["notes"]["file-partial"] == 1


def test_20_bit_flip_keeps_what_is_before_it(stage: Stage, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(json_lines(*MANY)))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    left = stage(tmp_path / "a.jsonl.gz", max_quarantined_fraction=1.0)
    assert len(set(left.texts()) & set(MANY)) > 50
    assert left.counts["notes"]["file-partial"] == 1
    assert left.quarantine()[-1]["reason"] == "gzip-corrupt"


def test_21_garbage_after_gzip_is_counted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES) + b"garbage")
    left = stage(tmp_path / "a.jsonl.gz")
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["notes"] == {"garbage-after-gzip": 1, "bytes-not-read": 7}


def test_21_concatenated_members_are_one_file(stage: Stage, tmp_path: Path) -> None:
    two = [json_lines(*GOOD[:2]), json_lines(*GOOD[2:])]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, two)))
    (tmp_path / "b.jsonl.zst").write_bytes(
        b"".join(zstandard.ZstdCompressor().compress(json_lines(f"Outro {n}.")) for n in range(3))
    )
    left = stage(tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.zst")
    assert left.counts["documents_kept"] == 7
    assert left.counts["notes"] == {}


def test_22_compression_is_detected_from_the_bytes(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl.gz").write_bytes(json_lines(*GOOD[:2]))
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(json_lines(GOOD[2])))
    (tmp_path / "other.jsonl.gz").write_bytes(
        zstandard.ZstdCompressor().compress(json_lines(GOOD[3]))
    )
    left = stage(tmp_path / "*.jsonl*")
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["notes"] == {"packing-not-as-named": 3}


@pytest.mark.parametrize("name", ["gz", "zst"])
def test_23_decompression_bomb_is_stopped(name: str, stage: Stage, tmp_path: Path) -> None:
    bomb = b"0" * 40_000_000
    pack = gzip.compress if name == "gz" else zstandard.ZstdCompressor().compress
    (tmp_path / f"bomb.jsonl.{name}").write_bytes(pack(LINES + bomb))
    left = stage(tmp_path / f"bomb.jsonl.{name}", max_line_bytes=1 << 20)
    assert sorted(left.texts()) == sorted(GOOD)
    (row,) = left.quarantine()
    assert row["reason"] == "decompression-bomb"
    assert row["num_bytes"] < 40_000_000


def test_24_archives_are_refused_with_the_command(stage: Stage, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.jsonl", "w") as archive:
        archive.writestr("../../evil.jsonl", "x")
    with pytest.raises(UserError, match=r"is a zip archive, expected .* fix: unzip"):
        stage(tmp_path / "a.jsonl")
    assert not list(tmp_path.parent.glob("evil*"))


# Writers of compressed files: what each leaves on disk, byte by byte where it is not installed.

HALVES = LINES[: LINES.index(b"\n", 60) + 1], LINES[LINES.index(b"\n", 60) + 1 :]


def _skippable(data: bytes, magic: int = 0x184D2A50) -> bytes:
    return struct.pack("<II", magic, len(data)) + data


def _zstd(data: bytes, **named: Any) -> bytes:
    return zstandard.ZstdCompressor(**named).compress(data)


def _zstd_streamed(data: bytes) -> bytes:
    """A frame that does not say its length."""
    pack = zstandard.ZstdCompressor().compressobj()
    return pack.compress(data) + pack.flush()


def _pzstd(*parts: bytes) -> bytes:
    """Each frame behind a skippable frame that holds its length."""
    frames = [_zstd(part) for part in parts]
    return b"".join(_skippable(struct.pack("<I", len(frame))) + frame for frame in frames)


def _seekable(*parts: bytes) -> bytes:
    """The seekable format: a table of the frames in a last skippable frame."""
    frames = [_zstd(part) for part in parts]
    rows = [struct.pack("<II", len(f), len(p)) for f, p in zip(frames, parts, strict=True)]
    foot = struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    return b"".join(frames) + _skippable(b"".join(rows) + foot, 0x184D2A5E)


def _bgzip(*parts: bytes) -> bytes:
    """BGZF: members with their length in an extra field, and an empty one at the end."""
    made = b""
    for part in (*parts, b""):
        pack = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = pack.compress(part) + pack.flush()
        foot = struct.pack("<II", zlib.crc32(part), len(part))
        size = 18 + len(body) + len(foot)
        extra = b"BC" + struct.pack("<HH", 2, size - 1)
        made += b"\x1f\x8b\x08\x04" + bytes(4) + b"\0\xff" + struct.pack("<H", 6) + extra
        made += body + foot
    return made


def _gzip_with_every_field(data: bytes) -> bytes:
    """FEXTRA, FNAME, FCOMMENT and FHCRC in the header."""
    head = b"\x1f\x8b\x08\x1e" + bytes(4) + b"\0\x03" + struct.pack("<H", 5) + b"extra"
    head += b"nome.jsonl\0" + b"um comentario\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    foot = struct.pack("<II", zlib.crc32(data), len(data))
    return head + pack.compress(data) + pack.flush() + foot


def _dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.train_dictionary(1024, [line.encode() * 4 for line in MANY])


def _warc_zstd(*parts: bytes, compressed: bool) -> bytes:
    """IIPC's WARC in Zstandard: a first skippable frame with the dictionary of the others."""
    words = _dictionary()
    data = _zstd(words.as_bytes()) if compressed else words.as_bytes()
    frames = [_zstd(part, dict_data=words) for part in parts]
    return _skippable(data, 0x184D2A5D) + b"".join(frames)


def _pigz(*parts: bytes) -> bytes:
    """One member of blocks that were compressed apart and flushed."""
    pack = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join(pack.compress(p) + pack.flush(zlib.Z_FULL_FLUSH) for p in parts) + pack.flush()


a, b = HALVES
WRITERS = {
    "gzip": gzip.compress(LINES),
    "gzip -0": gzip.compress(LINES, compresslevel=0),
    "gzip, members": gzip.compress(a) + gzip.compress(b),
    "gzip, an empty member first": gzip.compress(b"") + gzip.compress(LINES),
    "gzip, zeros between members": gzip.compress(a) + bytes(5000) + gzip.compress(b),
    "gzip, zeros at the end": gzip.compress(LINES) + bytes(70000),
    "gzip, every field of the header": _gzip_with_every_field(LINES),
    "bgzip": _bgzip(a, b),
    "pigz": _pigz(a, b),
    "Hadoop, gzip parts joined": gzip.compress(a, mtime=0) + gzip.compress(b, mtime=0),
    "zstd": _zstd(LINES, write_checksum=True),
    "zstd, no length": _zstd_streamed(LINES),
    "zstd --no-check -19 --long": _zstd(LINES, level=19, write_content_size=False),
    "zstd, frames": _zstd(a) + _zstd_streamed(b),
    "zstd, an empty frame": _zstd(b"") + _zstd(LINES) + _zstd(b""),
    "zstd, skippable frame first": _skippable(b"abcd") + _zstd(LINES),
    "zstd, skippable frame between": _zstd(a) + _skippable(b"x" * 3000, 0x184D2A5F) + _zstd(b),
    "zstd, skippable frames last": _zstd(LINES) + _skippable(b"") + _skippable(b"y" * 99999),
    "zstd, two skippable frames": _skippable(b"") + _skippable(b"1") + _zstd(a) + _zstd(b),
    "zstd, zeros at the end": _zstd(LINES) + bytes(512),
    "pzstd": _pzstd(a, b),
    "zstd, seekable": _seekable(a, b),
    "zstd, WARC's dictionary": _warc_zstd(a, b, compressed=False),
    "zstd, WARC's dictionary, compressed": _warc_zstd(a, b, compressed=True),
    "zstd, after gzip and bzip2": gzip.compress(a[:9]) + bz2.compress(a[9:]) + _zstd(b),
    "bzip2": bz2.compress(LINES),
    "bzip2 -1": bz2.compress(LINES, 1),
    "pbzip2, streams": bz2.compress(a) + bz2.compress(b),
    "bzip2, an empty stream first": bz2.compress(b"") + bz2.compress(LINES),
    "xz": lzma.compress(LINES),
    "xz -0 --check=none": lzma.compress(LINES, check=lzma.CHECK_NONE, preset=0),
    "xz, check of SHA-256": lzma.compress(LINES, check=lzma.CHECK_SHA256),
    "xz, streams with padding": lzma.compress(a) + bytes(8) + lzma.compress(b) + bytes(4),
}


def _chunks(data: bytes, path: Path, notes: Counter[str] | None = None) -> bytes:
    path.write_bytes(data)
    return b"".join(chunks_of(path, Counter() if notes is None else notes))


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_format_allows_is_read(name: str, tmp_path: Path) -> None:
    suffix = {"g": "gz", "b": "bz2", "x": "xz", "z": "zst", "p": "gz", "H": "gz"}[name[0]]
    others = {"bgzip": "gz", "pzstd": "zst", "pbzip2, streams": "bz2"}
    suffix = {**others, "zstd, after gzip and bzip2": "gz"}.get(name, suffix)
    notes: Counter[str] = Counter()
    assert _chunks(WRITERS[name], tmp_path / f"a.jsonl.{suffix}", notes) == LINES
    assert not +notes


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz", "pzstd", "bgzip"])
def test_a_cut_anywhere_is_noticed(name: str, tmp_path: Path) -> None:
    whole = WRITERS[name]
    # Whole members may end there: the rest of the file is then another file.
    whole_parts = {len(_pzstd(a)), len(_bgzip(a)) - 28, len(_bgzip(a, b)) - 28}
    for size in {*range(1, len(whole), 7), len(whole) - 1, 2, 5, 9} - whole_parts:
        path = tmp_path / "a.jsonl"
        path.write_bytes(whole[:size])
        made = bytearray()
        try:
            for chunk in chunks_of(path, Counter()):
                made += chunk
        except DamagedFileError as error:
            assert error.reason.endswith("-truncated"), (size, error)
            assert f"byte {size}" in error.detail
            assert LINES.startswith(made)
        else:
            # The first bytes alone do not say what the file is.
            assert size < 10 and made == whole[:size], size


@pytest.mark.parametrize("name", ["gz", "zst", "bz2", "xz"])
def test_what_follows_damage_is_counted_and_said(
    name: str, stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = {"gz": gzip.compress, "zst": _zstd, "bz2": bz2.compress, "xz": lzma.compress}[name]
    first, second = pack(json_lines(*MANY)), bytearray(pack(LINES))
    second[len(second) // 2 : len(second) // 2 + 8] = b"\xff" * 8
    data = first + bytes(second) + pack(LINES)
    path, notes = tmp_path / f"a.jsonl.{name}", Counter[str]()
    path.write_bytes(data)
    made = bytearray()
    with pytest.raises(DamagedFileError, match="-corrupt"):
        for chunk in chunks_of(path, notes):
            made += chunk
    assert made.startswith(json_lines(*MANY))
    assert len(pack(LINES)) <= notes["bytes-not-read"] <= len(pack(LINES)) + len(second)
    left = stage(path, max_quarantined_fraction=1.0)
    assert left.counts["notes"]["bytes-not-read"] == notes["bytes-not-read"]
    said = f"; {notes['bytes-not-read']:,} of its {len(data):,} bytes are not read"
    assert capsys.readouterr().err.count(said) == 1


def test_garbage_is_counted_in_bytes_and_said(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = gzip.compress(LINES) + b"garbage"
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    left = stage(tmp_path / "a.jsonl.gz")
    assert left.counts["notes"] == {"garbage-after-gzip": 1, "bytes-not-read": 7}
    said = f"other bytes follow its end; 7 of its {len(data)} bytes are not read"
    assert said in capsys.readouterr().err


def test_windows_too_large_and_dictionaries_are_one_line_with_a_command(tmp_path: Path) -> None:
    huge = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)
    pack = zstandard.ZstdCompressor(compression_params=huge).compressobj()
    data = pack.compress(LINES) + pack.flush()
    with pytest.raises(UserError, match=r"window of more than 128 MB .* fix: zstd -dc --memory"):
        _chunks(data, tmp_path / "a.jsonl.zst")
    data = _zstd(LINES, dict_data=_dictionary())
    with pytest.raises(UserError, match=r"dictionary .* fix: zstd -dc -D"):
        _chunks(data, tmp_path / "a.jsonl.zst")


def test_a_damaged_dictionary_is_damage(tmp_path: Path) -> None:
    for data in (b"(\xb5/\xfd" + b"\xff" * 90, bytes(17 << 20)):
        with pytest.raises(DamagedFileError, match="dictionary"):
            _chunks(_skippable(data, 0x184D2A5D) + _zstd(LINES), tmp_path / "a.zst")
    with pytest.raises(DamagedFileError, match="zstd-truncated"):
        _chunks(_skippable(bytes(99), 0x184D2A5D)[:50], tmp_path / "a.zst")


OTHERS = {
    "gzip": gzip.compress(gzip.compress(LINES)),
    "zstd": gzip.compress(_zstd(LINES)),
    "tar": bz2.compress(b"a.jsonl".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0") + LINES),
    "lzma": lzma.compress(LINES, format=lzma.FORMAT_ALONE),
    "zlib stream": zlib.compress(LINES),
    "compress": b"\x1f\x9d\x90" + bytes(99),
    "lzip": b"LZIP\x01\x0c" + bytes(99),
    "lzop": b"\x89LZO\0\r\n\x1a\n" + bytes(99),
    "Snappy": b"\xff\x06\0\0sNaPpY" + bytes(99),
    "zstd before 1.0": b"\x27\xb5\x2f\xfd" + bytes(99),
    "lz4": b"\x02\x21\x4c\x18" + bytes(99),
    "rar": b"Rar!\x1a\x07\x01\0" + bytes(99),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_packed_otherwise_or_twice_is_named_with_a_command(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl.gz"
    with pytest.raises(UserError, match=rf"{name}.* fix: .*{path}"):
        _chunks(OTHERS[name], path)


def test_decompressed_bytes_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.bz2").write_bytes(bz2.compress(json_lines(*MANY)))
    with open_decompressed(tmp_path / "a.bz2") as file:
        assert [json.loads(line)["text"] for line in file] == MANY
    (tmp_path / "a.bz2").write_bytes(bz2.compress(json_lines(*MANY))[:-9])
    with pytest.raises(DamagedFileError), open_decompressed(tmp_path / "a.bz2") as file:
        file.read()
