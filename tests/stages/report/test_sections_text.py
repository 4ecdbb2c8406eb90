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


def test_quality_shows_agreement_what_sources_lose_and_examples(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    sources = {
        name: {
            "documents": 10,
            "documents_kept": kept,
            "bytes": 100,
            "bytes_kept": 10 * kept,
            "bytes_kept_fraction": kept / 10,
            "mean_score": 2.25,
            "documents_by_score": [0, 3, 0, 7, 0, 0],
        }
        for name, kept in (("romances", 9), ("leis", 4))
    }
    curve = {"2": {"labels": 30, "mean_label": 2.1}}
    found = {"spearman": 0.776, "f1": 0.6, "cut": 2.5, "labels": 270, "curve": curve}
    write_stage(
        run_dir, "corpus", metrics={**METRICS["corpus"], "quality": {**found, "sources": sources}}
    )
    with DocumentWriter(run_dir / "corpus/dropped/quality-score", "part") as writer:
        scores = {"quality": 1.4}
        writer.write(Document("4", "De ana@exemplo.com.br, pouco.", "leis", "MIT", scores=scores))
    html = make_page(run_dir)
    assert "Spearman 0.776, F1 0.600 at 2.5; 270 labels." in html
    assert "2: 2.1" in html
    assert html.index("40.0%") < html.index("90.0%")  # what loses most comes first
    assert "leis, 1.40" in html
    assert "De [E-MAIL], pouco." in html
