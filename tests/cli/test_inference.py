"""Commands that use a finished model pass their options on, and ask no other machine."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.no_network import no_network
from support.small_run import make_run
from typer.testing import CliRunner

from teenytinyllama.cli.app import app
from teenytinyllama.errors import UserError
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


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("commands"))


def test_chat_and_serve_ask_no_other_machine(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    async def serve_nothing(*_: object) -> None:
        seen.append((constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"]))

    monkeypatch.setattr(server, "_until_signal", serve_nothing)
    before = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    with no_network() as tried:
        for arguments, typed in (
            (["chat", str(run_dir), "--set", "max_new_tokens=2"], "Olá\n"),
            (["serve", str(run_dir), "--port", "0"], ""),
        ):
            monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
            done = CliRunner().invoke(app, arguments, input=typed)
            assert done.exit_code == 0, done.exception
    assert (tried, seen) == ([], [(True, "1")])
    assert (constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")) == before


@pytest.mark.parametrize("base", ["someone/model", "/home/someone/private-model"])
@pytest.mark.parametrize("command", ["chat", "serve"])
def test_a_folder_that_names_another_base_model_is_refused(
    run_dir: Path, tmp_path: Path, base: str, command: str
) -> None:
    folder = shutil.copytree(run_dir / "pretrain" / "final", tmp_path / "m")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with no_network() as tried:
        done = CliRunner().invoke(app, [command, str(folder)], input="")
    assert isinstance(done.exception, UserError) and tried == []
    assert done.exception.code == "model-unsafe"
