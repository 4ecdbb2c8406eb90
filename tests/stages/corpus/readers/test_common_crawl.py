"""WET and WARC files."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import pytest
import zstandard
from support.corpus_stage import GOOD, Stage, json_lines


def warc(kind: str, url: str, block: bytes) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
    head += f"WARC-Record-ID: <urn:uuid:{abs(hash(url))}>\r\nContent-Length: {len(block)}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def test_wet_records_become_documents(stage: Stage, tmp_path: Path) -> None:
    records = [warc("warcinfo", "", b"software: x")]
    records += [warc("conversion", f"https://x.br/{n}", t.encode()) for n, t in enumerate(GOOD)]
    (tmp_path / "a.warc.wet.gz").write_bytes(b"".join(map(gzip.compress, records)))
    left = stage(tmp_path / "a.warc.wet.gz")
    assert {r["url"]: r["text"] for r in left.rows("*-*.zst")} == {
        f"https://x.br/{n}": text for n, text in enumerate(GOOD)
    }
    assert left.counts["notes"] == {"web-record-no-page": 1}


def test_truncated_wet_file_keeps_whole_records(stage: Stage, tmp_path: Path) -> None:
    records = [warc("conversion", f"https://x.br/{n}", t.encode()) for n, t in enumerate(GOOD)]
    (tmp_path / "a.wet").write_bytes(b"".join(records)[:-30])
    left = stage(tmp_path / "a.wet")
    assert sorted(left.texts()) == sorted(GOOD[:3])
    assert left.counts["quarantined_by_reason"] == {"web-record-damaged": 1}


@pytest.mark.parametrize("length", [b"-5", b"999999", b"9" * 5000, b"1_0", b"x"])
def test_a_record_with_a_wrong_length_costs_no_other(
    length: bytes, stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [warc("conversion", f"https://x.br/{n}", t.encode()) for n, t in enumerate(GOOD)]
    wrong = re.sub(rb"(?<=Content-Length: )\d+", length, warc("conversion", "", b"x" * 50))
    (tmp_path / "a.wet").write_bytes(records[0] + wrong + b"".join(records[1:]))
    left = stage(tmp_path / "a.wet")
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["quarantined_by_reason"] == {"web-record-damaged": 1}
    assert "bytes until the next record are not read" in capsys.readouterr().err


@pytest.mark.parametrize("num_missing", [1, 2])
@pytest.mark.parametrize("each_apart", [False, True])
def test_a_length_that_is_a_little_short_costs_no_record(
    num_missing: int, each_apart: bool, stage: Stage, tmp_path: Path
) -> None:
    """As some versions of wget write it."""
    records = [
        warc("conversion", f"https://x.br/{n}", f"{text} Fim.".encode()).replace(
            b"Length: %d" % len(f"{text} Fim.".encode()),
            b"Length: %d" % (len(f"{text} Fim.".encode()) - num_missing),
        )
        for n, text in enumerate(GOOD)
    ]
    data = b"".join(map(gzip.compress, records) if each_apart else records)
    (tmp_path / "a.wet").write_bytes(data)
    left = stage(tmp_path / "a.wet")
    assert sorted(left.texts()) == sorted(f"{text} Fim."[:-num_missing] for text in GOOD)
    assert left.counts["notes"]["web-record-length"] == len(GOOD)
    assert left.counts["documents_quarantined"] == 0


def test_pages_that_would_take_hours_are_quarantined(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("trafilatura", reason="pip install 'teenytinyllama[web]'")
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    pages = [b"<p>a</p>" * 200_000, b"<p>" + b"a" * 3_000_000]
    records = [warc("response", str(n), http + gzip.compress(p)) for n, p in enumerate(pages)]
    records += [warc("conversion", f"https://x.br/{n}", t.encode()) for n, t in enumerate(GOOD)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    left = stage(tmp_path / "a.warc", max_line_bytes=2_000_000)
    assert sorted(left.texts()) == sorted(GOOD)
    wanted = {"page-too-many-tags": 1, "line-too-long": 1}
    assert left.counts["quarantined_by_reason"] == wanted


def test_main_text_of_warc_pages_is_extracted(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("trafilatura", reason="pip install 'teenytinyllama[web]'")
    http = "HTTP/1.1 {}\r\nContent-Type: {}; charset=utf-8\r\n\r\n"

    def page(*paragraphs: str) -> bytes:
        body = "".join(f"<p>{p}</p>" for p in paragraphs)
        menu = "<nav><a href=/>Início</a><a href=/b>Contato</a></nav>" if paragraphs else ""
        html = f"<html><head><title>T</title></head><body>{menu}<article>{body}</article></body>"
        return (http.format("200 OK", "text/html") + html + "</html>").encode()

    long = [f"{text} " * 3 for text in GOOD]
    records = [
        warc("response", "https://x.br/a", page(*long[:2])),
        warc("response", "https://x.br/b", page(*long[2:])),
        warc("response", "https://x.br/vazia", page()),
        warc("response", "https://x.br/404", http.format("404 Not Found", "text/html").encode()),
        warc("response", "https://x.br/i.png", http.format("200 OK", "image/png").encode()),
        warc("request", "https://x.br/a", b"GET / HTTP/1.1\r\n\r\n"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    left = stage(tmp_path / "a.warc.gz")
    texts = {row["url"]: row["text"] for row in left.rows("*-*.zst")}
    assert sorted(texts) == ["https://x.br/a", "https://x.br/b"]
    assert GOOD[0] in texts["https://x.br/a"] and "Contato" not in texts["https://x.br/a"]
    assert left.counts["filtered_by_reason"] == {"no-main-text": 1}
    assert left.counts["notes"] == {"web-record-no-page": 3}
    assert left.counts["documents_read"] == 3


PAGE = "<html><head><title>T</title></head><body><article>{}</article></body></html>".format(
    "".join(f"<p>{text} {text}</p>" for text in GOOD)
)
PLAIN = PAGE.encode()


def chunked(data: bytes, size: int = 100) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%X;x=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


RAW_DEFLATE = zlib.compressobj(wbits=-15)
WAYS = {
    "chunked": ("Transfer-Encoding: chunked", chunked(PLAIN)),
    "gzip": ("Content-Encoding: gzip", gzip.compress(PLAIN)),
    "gzip and chunked": (
        "Content-Encoding: x-gzip\r\nTransfer-Encoding: chunked", chunked(gzip.compress(PLAIN))
    ),
    "gzip, members": (
        "Content-Encoding: gzip", gzip.compress(PLAIN[:99]) + gzip.compress(PLAIN[99:])
    ),
    "zstd, frames": (
        "Content-Encoding: zstd", zstandard.compress(PLAIN[:99]) + zstandard.compress(PLAIN[99:])
    ),
    "deflate": ("Content-Encoding: deflate", zlib.compress(PLAIN)),
    "raw deflate": (
        "Content-Encoding: deflate", RAW_DEFLATE.compress(PLAIN) + RAW_DEFLATE.flush()
    ),
    "zstd": ("Content-Encoding: zstd", zstandard.compress(PLAIN)),
    "decoded already": ("Content-Encoding: gzip\r\nTransfer-Encoding: chunked", PLAIN),
    "folded header": ("Content-Encoding:\r\n gzip", gzip.compress(PLAIN)),
}  # fmt: skip


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
@pytest.mark.parametrize("way", WAYS)
def test_codings_of_http_are_undone(way: str, line_end: str, stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("trafilatura", reason="pip install 'teenytinyllama[web]'")
    headers, body = WAYS[way]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{headers}\r\n\r\n"
    block = head.replace("\r\n", line_end).encode() + body
    (tmp_path / "a.warc").write_bytes(warc("response", "https://x.br/a", block))
    (tmp_path / "b.jsonl").write_bytes(json_lines("Outro texto, que não está na página."))
    texts = stage(tmp_path / "a.warc", tmp_path / "b.jsonl").texts()
    assert any(all(sentence in text for sentence in GOOD) for text in texts)


def test_a_body_that_is_cut_is_counted(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("trafilatura", reason="pip install 'teenytinyllama[web]'")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    block = head + gzip.compress(PLAIN)[:-20]
    (tmp_path / "a.warc").write_bytes(warc("response", "https://x.br/a", block))
    (tmp_path / "b.jsonl").write_bytes(json_lines(*GOOD))
    left = stage(tmp_path / "a.warc", tmp_path / "b.jsonl")
    assert left.counts["notes"] == {"web-record-cut": 1}


@pytest.mark.parametrize("charset", ["iso-8859-1", '"windows-1252"', "ISO-8859-15"])
def test_the_charset_of_the_header_is_used(charset: str, stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("trafilatura", reason="pip install 'teenytinyllama[web]'")
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={charset}\r\n\r\n"
    block = head.encode() + PAGE.encode("iso8859-15")
    (tmp_path / "a.warc").write_bytes(warc("response", "https://x.br/a", block))
    (tmp_path / "b.jsonl").write_bytes(json_lines("Outro texto, que não está na página."))
    texts = stage(tmp_path / "a.warc", tmp_path / "b.jsonl").texts()
    assert any(all(sentence in text for sentence in GOOD) for text in texts)


@pytest.mark.parametrize("kind", ["response", "resource"])
@pytest.mark.parametrize(
    ("encoding", "charset"),
    [("utf-8", ""), ("cp1252", "; charset=iso-8859-1"), ("cp1252", ""), ("utf-16", "")],
)
def test_records_of_plain_text_are_read(
    kind: str, encoding: str, charset: str, stage: Stage, tmp_path: Path
) -> None:
    text = "\n\n".join(GOOD)
    records = []
    for url, content in {"livro.txt": text, "a/robots.txt": "Disallow: /"}.items():
        block = content.encode(encoding)
        if kind == "response":
            block = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain{charset}\r\n\r\n".encode() + block
        record = warc(kind, f"https://x.br/{url}", block)
        if kind == "resource":
            line = f"\r\nContent-Type: text/plain{charset}\r\nContent-Length"
            record = record.replace(b"\r\nContent-Length", line.encode(), 1)
        records.append(record)
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    (tmp_path / "b.jsonl").write_bytes(json_lines("Outro texto, que não está no arquivo."))
    left = stage(tmp_path / "a.warc", tmp_path / "b.jsonl")
    assert sorted(left.texts()) == sorted([text, "Outro texto, que não está no arquivo."])
    assert left.counts["notes"]["web-record-no-page"] == 1


def test_plain_text_in_an_unknown_encoding_is_quarantined(stage: Stage, tmp_path: Path) -> None:
    russian = "Старый лес стоял над рекой, и вода в ней была тёмной.\n" * 5
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    block = head + russian.encode("cp1251")
    (tmp_path / "a.warc").write_bytes(warc("response", "https://x.br/a", block))
    (tmp_path / "b.jsonl").write_bytes(json_lines(*GOOD))
    left = stage(tmp_path / "a.warc", tmp_path / "b.jsonl")
    assert left.counts["quarantined_by_reason"] == {"encoding-unknown": 1}
