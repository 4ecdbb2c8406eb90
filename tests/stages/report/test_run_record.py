from __future__ import annotations

from pathlib import Path

import pytest
from support.report_run import build_run

from teenytinyllama.errors import UserError
from teenytinyllama.stages.report.run_record import read_run


def test_unfinished_stages_are_kept_apart(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path, "quickstart")
    (run_dir / "align/manifest.json").unlink()
    run = read_run(run_dir)
    assert run.stage("align") is None
    assert run.folder("align") == run.unfinished["align"] == run_dir / "align"
    assert run.folder("pretrain") == run_dir / "pretrain"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"name": "x"}', '{"name": 1, "recipe": 2}'])
def test_folder_that_is_not_a_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="run-missing"):
        read_run(tmp_path)
