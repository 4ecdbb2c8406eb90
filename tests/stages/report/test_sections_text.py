from __future__ import annotations

from pathlib import Path

from support.report_run import build_run, make_page


def test_text_with_personal_data_is_not_shown(tmp_path: Path) -> None:
    html = make_page(build_run(tmp_path))
    assert "pii-heavy" in html
    assert "123.456.789-09" not in html
    assert "Curto demais" in html
