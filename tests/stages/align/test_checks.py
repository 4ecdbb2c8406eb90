"""What chat training would fail on, before it runs."""

from __future__ import annotations

import json
from pathlib import Path

from support.recipe_checks import problems


def recipe(path: Path, more: str = "") -> str:
    return f'[align]\nsources = [{{ kind = "files", path = "{path}" }}]\n{more}'


def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    rows = [{"prompt": f"Pergunta {n}", "completion": "Sim."} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_few_conversations_with_the_default_warm_up_are_doubtful(tmp_path: Path) -> None:
    line = problems(tmp_path, recipe(chats(tmp_path)), "align")["warmup-too-long"]
    assert line.startswith("warning[")
    assert "1,000 steps of warm-up" in line
    assert "--set align.schedule.warmup_steps=" in line
    short = recipe(chats(tmp_path), "schedule = { warmup_steps = 1 }\n")
    assert problems(tmp_path, short, "align") == {}


def test_epochs_that_cannot_end_are_refused(tmp_path: Path) -> None:
    more = "schedule = { warmup_steps = 1 }\nnum_epochs = "
    found = problems(tmp_path, recipe(chats(tmp_path), f"{more}{10**12}\n"), "align")
    assert found["epochs-without-end"].startswith("error[")
    found = problems(tmp_path, recipe(chats(tmp_path), f"{more}1000\n"), "align")
    assert found["epochs-many"].startswith("warning[")


def test_files_that_are_not_there_or_hold_no_records(tmp_path: Path) -> None:
    assert "source-empty" in problems(tmp_path, recipe(tmp_path / "no.jsonl"), "align")
    (tmp_path / "chat.docx").write_text("x")
    line = problems(tmp_path, recipe(tmp_path / "chat.docx"), "align")["file-kind"]
    assert "align.sources.0.path" in line and "chat.docx" in line
