from __future__ import annotations

import json
from pathlib import Path

from support.report_run import build_run, make_page, section_text


def test_samples_of_a_resumed_run_are_shown_once(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    samples = [
        {"step": 100, "prompt": "Era", "text": "Era uma casa", "tokens": 4096},
        {"step": 100, "prompt": "Era", "text": "Era um rio", "tokens": 4096},
    ]
    (run_dir / "pretrain/samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    text = section_text(make_page(run_dir), "samples")
    assert "After 100 steps, 4.1 k tokens seen" in text
    assert "um rio" in text
    assert "uma casa" not in text


def test_missing_metrics_and_samples_are_named(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    for name in ("metrics", "samples"):
        (run_dir / f"pretrain/{name}.jsonl").unlink()
    html = make_page(run_dir)
    assert "no pretrain/metrics.jsonl in this run" in section_text(html, "training")
    assert "no pretrain/samples.jsonl in this run" in section_text(html, "samples")
