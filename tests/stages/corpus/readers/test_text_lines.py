"""Text files as lines and as whole texts."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.corpus_stage import GOOD, Stage, json_lines

from teenytinyllama.errors import UserError

LINES = json_lines(*GOOD)


def reasons(left: object) -> list[str]:
    return [row["reason"] for row in left.quarantine()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "encoding",
    ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp1252", "iso8859-1", "cp850"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".jsonl.gz"])
def test_2_a_certain_encoding_is_decoded_and_counted(
    encoding: str, suffix: str, stage: Stage, tmp_path: Path
) -> None:
    data = LINES.decode("utf-8").encode(encoding)
    path = tmp_path / f"velho{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    (tmp_path / "b.txt").write_text("Outro texto.", encoding="utf-8")
    left = stage(path, tmp_path / "b.txt")
    texts = [LINES.decode()] if suffix == ".txt" else GOOD
    assert sorted(left.texts()) == sorted([*texts, "Outro texto."])
    assert [n for n in left.counts["notes"] if n.startswith("decoded-")]


def test_2_an_uncertain_encoding_quarantines_the_file(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    russian = "Старый лес стоял над рекой, и вода в ней была тёмной.\n" * 5
    (tmp_path / "a.txt").write_bytes(russian.encode("cp1251"))
    (tmp_path / "b.jsonl").write_bytes(LINES)
    left = stage(tmp_path / "a.txt", tmp_path / "b.jsonl")
    assert sorted(left.texts()) == sorted(GOOD)
    assert reasons(left) == ["encoding-unknown"]
    assert "a.txt" in (told := capsys.readouterr().err) and "CP1252" not in told
    with pytest.raises(UserError, match=r'error\[encoding\].*add encoding = "..." to corpus.so'):
        stage(tmp_path / "a.txt", out="alone")


def test_3_byte_order_mark_is_stripped_and_counted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES)
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + "Um texto só.".encode())
    left = stage(tmp_path / "bom.jsonl", tmp_path / "bom.txt")
    assert sorted(left.texts()) == sorted([*GOOD, "Um texto só."])
    assert left.counts["notes"]["byte-order-mark"] == 2


def test_4_truncated_last_line_is_quarantined(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": "sem fi')
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == sorted(GOOD)
    assert reasons(left) == ["invalid-json"]


@pytest.mark.skipif(not shutil.which("jq"), reason="the advice is a command of jq")
@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"text": one} for one in GOOD]),
        json.dumps([{"text": one} for one in GOOD], indent=1),
        "\n".join(json.dumps({"text": one}, indent=1) for one in GOOD),
        json.dumps({str(n): {"text": one} for n, one in enumerate(GOOD)}, indent=1),
        json.dumps({"version": "1", "data": [{"text": one} for one in GOOD]}, indent=1),
    ],
    ids=["one line", "list", "objects one after the other", "rows by key", "a list in an object"],
)
def test_json_over_several_lines_names_the_command_and_it_helps(
    text: str, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"json-not-lines.*jq -c .*a\.json > a\.jsonl") as error:
        stage(tmp_path / "a.json")
    subprocess.run(error.value.fix, shell=True, check=True)
    assert sorted(stage(tmp_path / "a.jsonl", out="made").texts()) == sorted(GOOD)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-8"])
def test_half_a_character_costs_its_line_alone(encoding: str, stage: Stage, tmp_path: Path) -> None:
    bad = json.dumps({"text": "Era uma\ud800vez."}, ensure_ascii=False)
    lines = json_lines(*GOOD).decode() + bad + "\n" + json_lines("E acabou a história.").decode()
    (tmp_path / "a.jsonl").write_bytes(lines.encode(encoding, "surrogatepass"))
    left = stage(tmp_path / "a.jsonl", max_quarantined_fraction=1.0)
    assert sorted(left.texts()) == sorted([*GOOD, "E acabou a história."])
    assert left.counts["quarantined_by_reason"] == {"invalid-utf8": 1}


def test_15_oversized_line_is_never_held(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first, rest = LINES.split(b"\n", 1)
    path.write_bytes(first + b"\n" + b"x" * 3_000_000 + b"\n" + rest)
    left = stage(path, max_line_bytes=1_000_000)
    assert sorted(left.texts()) == sorted(GOOD)
    (row,) = left.quarantine()
    assert (row["detail"], row["num_bytes"]) == ("3000000 bytes", 3_000_000)
    assert left.counts["bytes_quarantined"] == 3_000_000


def test_18_crlf_and_blank_lines_are_accepted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\r\n\n" + LINES.replace(b"\n", b"\r\n\r\n"))
    left = stage(tmp_path / "a.jsonl")
    assert sorted(left.texts()) == sorted(GOOD)
    assert left.counts["documents_read"] == 4


def test_long_text_file_is_cut_between_paragraphs(stage: Stage, tmp_path: Path) -> None:
    paragraphs = [f"Parágrafo {n}. " + "palavra " * 20 for n in range(40)]
    (tmp_path / "livro.txt").write_text("\n\n".join(paragraphs), "utf-8")
    left = stage(tmp_path / "livro.txt", max_line_bytes=1024, near_duplicates=None)
    rows = left.rows("*-*.zst")
    assert len(rows) > 5
    found = [p.strip() for row in rows for p in row["text"].strip().split("\n\n")]
    assert sorted(found) == sorted(p.strip() for p in paragraphs)
    assert max(len(row["text"].encode()) for row in rows) <= 1024


def test_a_wrong_byte_in_a_text_costs_its_line(stage: Stage, tmp_path: Path) -> None:
    lines = [text.encode() for text in GOOD]
    lines[1] = lines[1][:20] + b"\xff" + lines[1][20:]
    (tmp_path / "a.txt").write_bytes(b"\r\n".join(lines))
    (tmp_path / "b.txt").write_bytes(b"um\xff texto")
    (tmp_path / "c.txt").write_text("Outro texto.", "utf-8")
    left = stage(tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt")
    assert sorted(left.texts()) == sorted(["\n".join([GOOD[0], *GOOD[2:]]), "Outro texto."])
    assert reasons(left) == ["invalid-utf8", "invalid-utf8"]
    assert left.counts["documents_read"] == 4
