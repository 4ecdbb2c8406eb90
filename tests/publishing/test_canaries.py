"""No canary secret of figure F18 is in any output or shown file."""

from __future__ import annotations

from pathlib import Path

from support.canaries import GITHUB, HUB, leaks, run_trials


def test_no_command_leaks_a_canary(tmp_path: Path) -> None:
    found, codes = run_trials(tmp_path)
    assert codes == {
        "run": 0,
        "report of a folder": 0,
        "a failure with its traceback": 2,
        "an unknown setting": 2,
        "publish": 2,
    }
    assert found == []


def test_the_search_for_leaks_finds_them(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(f"chave: {GITHUB}")
    assert list(leaks(tmp_path, [f"log {HUB}"])) == [
        "hub token, environment: output of command 0",
        "github token, document: card.md",
    ]
