"""No canary secret of figure F18 leaves the place where it was planted."""

from __future__ import annotations

from pathlib import Path

from support.canaries import GITHUB, HUB, SECRETS, leaks, run_trials

from teenytinyllama.redaction import find_personal_folders, find_secrets, redact


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


def test_secrets_are_known_by_their_form() -> None:
    for kind, secret in SECRETS.items():
        if kind.split(", ")[0] in ("hub token", "cloud key", "github token", "api key"):
            assert [text for text in (redact(f"x {secret} y"),) if secret in text] == []
    assert list(find_secrets("um texto comum, https://example.org/a:b e sk-curto")) == []
    assert list(find_secrets("veja https://user:password@example.org")) == []  # a manual's example


def test_folders_of_a_person() -> None:
    assert list(find_personal_folders(r"C:\Users\ana\x and /Users/bia/y")) == [
        r"C:\Users\ana",
        "/Users/bia",
    ]
    assert redact("/home/ana/x", for_others=True) == "/home/[user]/x"
    assert redact("/home/ana/x") == "/home/ana/x"  # a path on this machine still works here
