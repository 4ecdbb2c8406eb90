from __future__ import annotations

from pathlib import Path

from teenytinyllama.artifacts.json_lines import read_last_lines


def test_steps_logged_twice_or_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "loss": 1}\n{"step": 1}\n{"step": 2, "loss": 3}\n7\n{"step": 3, "l'
    )
    assert read_last_lines(path) == [{"step": 1}, {"step": 2, "loss": 3}]
    assert read_last_lines(tmp_path / "missing.jsonl") == []
