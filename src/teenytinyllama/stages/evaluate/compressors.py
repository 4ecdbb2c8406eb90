"""General compressors as baselines: what text costs without any model of the language."""

from __future__ import annotations

import lzma
from collections.abc import Iterable

import zstandard

ZSTD_LEVEL = 19
# Both are slow; beyond this much text their rate hardly changes.
MAX_BYTES = 32_000_000


def compressed_bits_per_byte(texts: Iterable[str]) -> dict[str, float]:
    """Bits per byte of `zstd -19` and `xz` on the texts laid end to end.

    At most the first 32 MB are compressed; `num_bytes` says how many were.
    """
    data = bytearray()
    for text in texts:
        data += text.encode("utf-8")
        if len(data) >= MAX_BYTES:
            break
    raw = bytes(data[:MAX_BYTES])
    if not raw:
        return {"num_bytes": 0.0}
    zstd = len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(raw))
    xz = len(lzma.compress(raw, preset=6))
    return {
        "zstd_19_bits_per_byte": 8 * zstd / len(raw),
        "xz_bits_per_byte": 8 * xz / len(raw),
        "num_bytes": float(len(raw)),
    }
