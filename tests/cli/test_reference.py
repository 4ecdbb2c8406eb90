"""The generated pages are those of the code, and no setting is without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from teenytinyllama.cli.app import app
from teenytinyllama.cli.reference import commands_markdown, settings_markdown, settings_rows

DOCS = Path(__file__).parents[2] / "docs"


def test_every_setting_is_described() -> None:
    rows = list(settings_rows())
    assert len(rows) > 60
    assert [path for path, _, _, words in rows if len(words) < 4] == []


def test_defaults_of_a_section_are_those_where_it_is_used() -> None:
    defaults = {path: default for path, _, default, _ in settings_rows()}
    assert defaults["pretrain.optimizer.peak_learning_rate"] == "0.0006"
    assert defaults["align.optimizer.peak_learning_rate"] == "1e-05"
    assert defaults["pretrain.sequence_length"] == "2048"
    assert defaults["corpus.sources[].kind"] == "**required**"


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("settings.md", settings_markdown(), "ttl settings --markdown > docs/settings.md"),
        ("cli.md", commands_markdown(app), "ttl settings --commands > docs/cli.md"),
    ],
)
def test_the_pages_are_up_to_date(name: str, text: str, command: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == text, f"run: {command}"
