from __future__ import annotations

from pathlib import Path

from support.report_run import build_run, make_page

from teenytinyllama.artifacts.documents import Document, DocumentWriter


def test_text_with_personal_data_is_not_shown(tmp_path: Path) -> None:
    html = make_page(build_run(tmp_path))
    assert "pii-heavy" in html
    assert "123.456.789-09" not in html
    assert "Curto demais" in html


def test_examples_of_removed_texts_are_without_personal_data(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    with DocumentWriter(run_dir / "corpus/dropped/too-long", "part") as writer:
        text = f"{'palavra ' * 48}de ana.maria@exemplo.com.br, CPF 529.982.247-25."
        writer.write(Document("3", text, "livros", "MIT"))
    html = make_page(run_dir)
    assert "de [E-MAIL]" in html
    assert "ana.maria" not in html
    assert "529.982" not in html
