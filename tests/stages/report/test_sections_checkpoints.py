from __future__ import annotations

from pathlib import Path

from support.report_run import METRICS, build_run, make_page, section_text, write_stage


def test_other_models_and_checkpoints_are_shown(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    scores = {
        "heldout_bits_per_byte": 1.9,
        "heldout_perplexity": 6.69,
        "tasks": {"arc": {"accuracy": 0.31, "num_items": 100}},
    }
    more = {
        "models": {"outro": scores},
        "checkpoints": [
            {"step": 100 * n, "tokens": 1000 * n, "energy": [0.0, 1.0, 0.5, 9.0], **scores}
            for n in (1, 2)
        ],
    }
    write_stage(run_dir, "evaluate", metrics={**METRICS["evaluate"], **more})
    text = section_text(make_page(run_dir), "scores")
    assert "outro 1.9000 – 22.8 to 40.6" in text  # Wilson's interval of 31 in 100
    assert "200 2 k 1.50 kWh 9.00 kg 6.69 1.9000 not recorded 31.0 %" in text
    assert "paper, 460m, ARC-Challenge" in text
