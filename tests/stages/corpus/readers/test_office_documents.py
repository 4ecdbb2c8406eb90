"""Books and office documents as sources of text."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import pytest
from support.corpus_stage import GOOD, Stage

from teenytinyllama.stages.corpus.readers import office_documents
from teenytinyllama.stages.corpus.readers.office_documents import DocumentError, text_of_document

pypandoc = pytest.importorskip("pypandoc")
pytest.importorskip("pypdfium2")


def pdf(text: str) -> bytes:
    """A page of text, one line a line, as the smallest valid PDF has it."""
    shown = "".join(f"({line}) Tj T* " for line in text.splitlines())
    page = zlib.compress(f"BT /F1 12 Tf 14 TL 40 800 Td {shown} ET".encode("cp1252"))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900 850] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(page), page),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    made, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(made)
    return made + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer


@pytest.fixture
def write(tmp_path: Path):
    """`write(name, text)`: a document of the kind that its name says."""

    def written(name: str, text: str) -> Path:
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".pdf":
            path.write_bytes(pdf(text))
            return path
        command = [pypandoc.get_pandoc_path(), "--from", "markdown", "--output", str(path)]
        subprocess.run(command, input=text, text=True, check=True)
        return path

    return written


def test_every_kind_is_read_as_one_document_of_its_folder(write, stage: Stage, tmp_path: Path):
    kinds = ("docx", "odt", "epub", "fb2", "pdf")
    texts = (*GOOD, "Choveu a semana inteira no sertão.")
    for number, kind in enumerate(kinds):
        write(f"história {number}.{kind}", f"{texts[number]}\n\nNúmero {number}.\n")
    left = stage(tmp_path / "in")
    found = {" ".join(text.split()) for text in left.texts()}
    assert found == {f"{text} Número {number}." for number, text in enumerate(texts)}
    assert {row["source"] for row in left.rows("*.jsonl.zst")} == {"in"}


def test_pictures_and_lines_of_tables_are_no_text(write):
    text = "Um sapo.\n\n![](sapo.png)\n\n| a | b |\n|---|---|\n| um | dois |\n\nFim.\n"
    found = text_of_document(write("a.odt", text))
    assert "---" not in found and "png" not in found
    assert found.split() == ["Um", "sapo.", "a", "b", "um", "dois", "Fim."]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.docx", b"PK\x03\x04 no zip", "document-damaged"),
        ("a.epub", b"", "document-damaged"),
        ("a.pdf", b"%PDF-1.7 cut", "document-damaged"),
        ("a.pdf", pdf(""), "document-without-text"),
        ("a.pdf", pdf(GOOD[0]).replace(b"/Root 1 0 R", b"/Root 9 0 R"), "document-damaged"),
    ],
)
def test_what_has_no_text_is_named(name, data, reason, tmp_path: Path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DocumentError) as error:
        text_of_document(tmp_path / name)
    assert (error.value.reason, bool(error.value.detail)) == (reason, True)


def test_one_bad_document_is_quarantined_beside_good_ones(write, stage: Stage, tmp_path: Path):
    for number, text in enumerate(GOOD):
        write(f"{number}.fb2", text)
    (tmp_path / "in" / "z.pdf").write_bytes(b"%PDF-1.7 cut")
    left = stage(tmp_path / "in", max_quarantined_fraction=0.5)
    assert sorted(left.texts()) == sorted(GOOD)
    (row,) = left.quarantine()
    assert (row["reason"], row["file"]) == ("document-damaged", str(tmp_path / "in" / "z.pdf"))


def test_a_document_that_takes_for_ever_is_stopped(write, monkeypatch):
    path = write("a.pdf", GOOD[0])
    monkeypatch.setattr(office_documents, "MAX_SECONDS", 0.01)
    with pytest.raises(DocumentError) as error:
        text_of_document(path)
    assert error.value.reason == "document-too-slow"


def test_a_record_cannot_name_a_file_of_the_machine(stage: Stage, tmp_path: Path):
    """Only a source's own files are opened: a record's fields never are."""
    secret = tmp_path / "secret.docx"
    secret.write_bytes(b"x")
    lines = "".join(f'{{"text": "{text}", "document": "{secret}"}}\n' for text in GOOD)
    (tmp_path / "a.jsonl").write_text(lines)
    assert sorted(stage(tmp_path / "a.jsonl").texts()) == sorted(GOOD)
