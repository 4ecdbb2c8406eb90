"""No canary secret of figure F18 leaves the place where it was planted."""

from __future__ import annotations

from pathlib import Path

from support.canaries import GITHUB, HUB, leaks, run_trials


def test_no_canary_stands_where_others_can_read_it(tmp_path: Path) -> None:
    found, codes = run_trials(tmp_path)
    assert codes == {
        "run": 0,
        "report of a folder": 0,
        "a failure with its traceback": 2,
        "an unknown setting": 2,
        "publish": 2,
    }
    assert found == []


def test_the_search_for_leaks_finds_one(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(f"chave: {GITHUB}")
    assert list(leaks(tmp_path, [f"said {HUB}"])) == [
        "hub token, environment: said by command 0",
        "github token, document: card.md",
    ]
