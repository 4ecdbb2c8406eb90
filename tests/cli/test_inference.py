"""Commands that use a finished model pass their options on."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from teenytinyllama.cli.main import app
from teenytinyllama.inference import chat_repl, throughput
from teenytinyllama.serving import server
from teenytinyllama.stages.finetune import classify


@pytest.fixture
def given(monkeypatch):
    """Keywords that the work behind a command was called with."""
    given = {}
    for module in (chat_repl, throughput, server, classify):
        monkeypatch.setattr(module, "run", lambda **options: given.update(options) or "table")
    return given


def invoke(*words):
    result = CliRunner().invoke(app, words)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_chat(given):
    invoke("chat", "a", "b", "--system", "Sê breve.", "--set", "temperature=0")
    assert given == {
        "models": [Path("a"), Path("b")],
        "system": "Sê breve.",
        "assignments": ["temperature=0"],
    }


def test_bench_measures_every_combination(given):
    assert (
        invoke("bench", "160m", "--batch", "1", "--batch", "8", "--precision", "fp32") == "table\n"
    )
    assert [(case.model, case.precision, case.batch) for case in given["cases"]] == [
        ("160m", "fp32", 1),
        ("160m", "fp32", 8),
    ]


def test_serve_listens_on_this_machine_only_by_default(given):
    invoke("serve", "run", "--allow-host", "box")
    assert (given["host"], given["port"]) == ("127.0.0.1", 8000)
    assert given["allowed_hosts"] == ["box"]
    assert given["models"] == [Path("run")]


def test_classify(given):
    invoke("classify", "run", "a.csv", "--task", "mood", "--column", "text")
    assert given == {
        "model": Path("run"),
        "files": [Path("a.csv")],
        "task": "mood",
        "columns": ["text"],
    }
