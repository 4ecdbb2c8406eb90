from __future__ import annotations

from pathlib import Path

from support.report_run import METRICS, build_run, make_page, section_text, write_stage

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


def test_tokenizer_coverage_is_shown_by_script(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    html = make_page(run_dir)
    assert "4.220 bytes of English: byte premium 1.098" in section_text(html, "tokenizer")
    assert "without a token" not in html  # a run of an earlier version
    scripts = {
        "Thai": {
            "num_characters": 900, "num_without_token": 0, "without_token_fraction": 0.0},
        "Han": {
            "num_characters": 100, "num_without_token": 25, "without_token_fraction": 0.25},
    }  # fmt: skip
    write_stage(run_dir, "tokenizer", metrics={**METRICS["tokenizer"], "scripts": scripts})
    text = section_text(make_page(run_dir), "tokenizer")
    assert "Thai 900 90.00 % 0.00 %" in text
    assert "Han 100 10.00 % 25.00 % 25 characters" in text


def test_phases_are_shown_source_by_source(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    assert "one phase after another" not in make_page(run_dir)
    phases = [
        {"share": 0.8, "num_tokens": 32038, "tokens_by_source": {"web": 32038}},
        {"share": 0.2, "num_tokens": 8096, "tokens_by_source": {"web": 4000, "<livros>": 4096}},
    ]
    write_stage(run_dir, "pack", metrics={**METRICS.get("pack", {}), "phases": phases})
    html = make_page(run_dir)
    assert "<livros>" not in html
    text = section_text(html, "tokens")
    assert "1 32,038 0 32,038" in text
    assert "2 8,096 4,096 4,000" in text
