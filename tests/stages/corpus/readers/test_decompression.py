"""Compressed files: truncated, damaged, misnamed, and bombs."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest
import zstandard
from support.corpus_stage import GOOD, Stage, json_lines

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
    assert left.counts["notes"] == {"garbage-after-gzip": 1}


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
