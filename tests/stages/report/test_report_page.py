from __future__ import annotations

from pathlib import Path

import pytest
from support.report_run import COUNTS, METRICS, build_run, make_page, section_text, write_stage

from teenytinyllama.stages.report.report_page import html_of


@pytest.mark.parametrize(
    ("key", "stage", "name", "before", "after"),
    [
        ("corpus", "corpus", "documents_kept", "870", "871"),
        ("corpus", "corpus", "documents_heldout", "20", "31"),
        ("tokenizer", "tokenizer", "vocab_size", "2,048", "4,096"),
        ("tokens", "pack", "tokens_train", "1,100,000", "1,234,567"),
        ("training", "pretrain", "parameters", "2,753,664", "9,999,999"),
    ],
)
def test_changed_count_changes_the_page(
    tmp_path: Path, key: str, stage: str, name: str, before: str, after: str
) -> None:
    run_dir = build_run(tmp_path)
    assert before in section_text(make_page(run_dir), key).split()
    changed = {**COUNTS[stage], name: int(after.replace(",", ""))}
    write_stage(run_dir, stage, counts=changed)
    assert after in section_text(make_page(run_dir), key).split()


def test_changed_score_changes_the_page(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    assert "1.2345" in section_text(make_page(run_dir), "scores")
    write_stage(run_dir, "evaluate", metrics={**METRICS["evaluate"], "heldout_bits_per_byte": 1.99})
    text = section_text(make_page(run_dir), "scores")
    assert "1.9900" in text
    assert "1.2345" not in text


def test_subtitle_compares_with_the_bigram_model(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    assert "it needs 41 % fewer bits than a bigram model" in make_page(run_dir)
    write_stage(run_dir, "evaluate", metrics={"below_bigram_fraction": -0.05})
    assert "it needs 5 % more bits than a bigram model" in make_page(run_dir)


def test_unfinished_training_is_shown(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path, "quickstart")
    (run_dir / "pretrain/manifest.json").unlink()
    with (run_dir / "pretrain/metrics.jsonl").open("a") as file:
        file.write('{"step": 401, "loss": 1.0')  # cut by a kill
    html = html_of([run_dir])
    for text in ("steps so far", "of 400", "Training in progress.", 'id="loss"'):
        assert text in html
