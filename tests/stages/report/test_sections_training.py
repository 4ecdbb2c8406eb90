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


def test_members_and_weights_are_compared_where_there_are_several(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    assert "Weights compared" not in section_text(make_page(run_dir), "training")
    path = run_dir / "pretrain/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["metrics"] |= {
        "heldout_bpb_of_members": [1.301, 1.302],
        "heldout_bpb_of_ensemble": 1.203,
        "heldout_bpb_of_weights": {"last step": 1.244, "average of 0.9 a step": 1.225},
        "kept_weights": "average of 0.9 a step",
    }
    path.write_text(json.dumps(manifest))
    text = section_text(make_page(run_dir), "training")
    for words in ("member 2", "1.302", "ensemble", "1.203", "average of 0.9 a step, kept"):
        assert words in text
    assert "last step, kept" not in text
