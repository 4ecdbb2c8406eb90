"""Every kind of source: the same texts come out, each with licence, origin and a place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.errors import UserError


def test_files_of_every_kind_in_a_folder(stage: Stage, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "fontes"
    (folder / "fundo").mkdir(parents=True)
    (folder / "a.txt").write_text(GOOD[0], "utf-8")
    (folder / "b.jsonl").write_bytes(json_lines(GOOD[1]))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(json_lines(GOOD[2])))
    (folder / "fundo" / "d.jsonl.zst").write_bytes(
        zstandard.ZstdCompressor().compress(json_lines(GOOD[3]))
    )
    table = arrow.table({"text": ["Uma linha da tabela."], "url": ["https://x.br/1"]})
    parquet.write_table(table, folder / "e.parquet")
    (folder / "imagem.png").write_bytes(b"\x89PNG")
    left = stage(folder)
    rows = {row["text"]: row for row in left.rows("*-*.zst")}
    assert sorted(rows) == sorted([*GOOD, "Uma linha da tabela."])
    assert rows[GOOD[0]]["id"] == "a:1"
    assert rows["Uma linha da tabela."]["url"] == "https://x.br/1"
    assert {row["license"] for row in rows.values()} == {"CC0-1.0"}
    assert sorted(left.counts["sources"]) == ["a", "b", "c", "d", "e"]
    assert left.counts["notes"] == {"file-ignored": 1}


def test_counts_follow_the_lines_source_unless_the_recipe_names_one(
    stage: Stage, tmp_path: Path
) -> None:
    one = json_lines(*GOOD[:2], source="jornal") + json_lines(GOOD[2], source="github:a/b@c:d")
    (tmp_path / "a.jsonl").write_bytes(one + json_lines(GOOD[3]))
    left = stage(tmp_path / "a.jsonl")
    assert {n: r["documents_read"] for n, r in left.counts["sources"].items()} == {
        "jornal": 2,
        "a": 2,
    }
    named = stage(tmp_path / "a.jsonl", out="named", source={"name": "tudo"})
    assert list(named.counts["sources"]) == ["tudo"]


def test_a_long_text_file_is_cut_between_paragraphs(stage: Stage, tmp_path: Path) -> None:
    paragraphs = [f"Parágrafo {n}. " + "palavra " * 20 for n in range(40)]
    (tmp_path / "livro.txt").write_text("\n\n".join(paragraphs), "utf-8")
    left = stage(tmp_path / "livro.txt", max_line_bytes=1024, near_duplicates=None)
    rows = left.rows("*-*.zst")
    assert len(rows) > 5
    found = [p.strip() for row in rows for p in row["text"].strip().split("\n\n")]
    assert sorted(found) == sorted(p.strip() for p in paragraphs)
    assert max(len(row["text"].encode()) for row in rows) <= 1024


def test_a_local_folder_of_a_hub_dataset(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "wiki-pt"
    folder.mkdir()
    rows = [
        {"id": n, "url": f"https://x.br/{n}", "title": "t", "text": t} for n, t in enumerate(GOOD)
    ]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    left = stage({"kind": "hub", "path": str(folder), "license": "CC-BY-SA-4.0"})
    assert sorted(left.texts()) == sorted(GOOD)
    assert {row["source"] for row in left.rows("*-*.zst")} == {"wiki-pt"}
    with pytest.raises(UserError, match=r"wiki-pt\" cannot be read \(ValueError"):
        stage({"kind": "hub", "path": str(folder), "license": "MIT", "split": "nenhum"})


def test_the_storybook_needs_no_licence(stage: Stage) -> None:
    left = stage({"kind": "storybook", "num_documents": 50, "seed": 3})
    assert left.counts["documents_kept"] == 50
    assert left.counts["licenses"] == {"Apache-2.0": 50}


def warc(kind: str, url: str, block: bytes) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
    head += f"WARC-Record-ID: <urn:uuid:{abs(hash(url))}>\r\nContent-Length: {len(block)}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def test_wet_files(stage: Stage, tmp_path: Path) -> None:
    records = [warc("warcinfo", "", b"software: x")]
    records += [warc("conversion", f"https://x.br/{n}", t.encode()) for n, t in enumerate(GOOD)]
    (tmp_path / "a.warc.wet.gz").write_bytes(b"".join(map(gzip.compress, records)))
    left = stage(tmp_path / "a.warc.wet.gz")
    assert {r["url"]: r["text"] for r in left.rows("*-*.zst")} == {
        f"https://x.br/{n}": text for n, text in enumerate(GOOD)
    }
    assert left.counts["notes"] == {"web-record-no-page": 1}


def test_a_truncated_wet_file_keeps_what_is_whole(stage: Stage, tmp_path: Path) -> None:
    records = [warc("conversion", f"https://x.br/{n}", t.encode()) for n, t in enumerate(GOOD)]
    (tmp_path / "a.wet").write_bytes(b"".join(records)[:-30])
    left = stage(tmp_path / "a.wet")
    assert sorted(left.texts()) == sorted(GOOD[:3])
    assert left.counts["quarantined_by_reason"] == {"web-record-damaged": 1}


def test_warc_pages_lose_their_menus(stage: Stage, tmp_path: Path) -> None:
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
