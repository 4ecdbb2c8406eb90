"""`ttl publish`: what is shown, written to a folder, and sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_hub import TOKEN, FakeHub
from support.finished_run import safetensors
from support.publishing import prepare

from teenytinyllama.errors import UserError
from teenytinyllama.publishing import publisher


def test_the_dry_run_names_every_file_and_sends_nothing(run_dir: Path, hub: FakeHub) -> None:
    text = publisher.describe(prepare(run_dir), public=False, as_json=False)
    for part in ("model ana/pequeno   licence Apache-2.0, private", "step-0000100", "README.md",
                 "the same files", "3 repositories, 5 revisions"):  # fmt: skip
        assert part in text
    plan = json.loads(publisher.describe(prepare(run_dir), public=True, as_json=True))
    assert plan[0]["visibility"] == "public"
    assert plan[0]["revisions"][0]["files"]["model.safetensors"] == len(safetensors())
    assert hub.repos == {}


def test_the_plan_can_be_written_to_a_folder(run_dir: Path, tmp_path: Path) -> None:
    plan = prepare(run_dir)
    publisher.write_folder(plan, tmp_path / "out")
    assert (tmp_path / "out/ana/pequeno/step-0000100/config.json").is_file()
    with pytest.raises(UserError, match="folder-not-empty"):
        publisher.write_folder(plan, tmp_path / "out")


def test_the_command_sends_only_with_upload(run_dir: Path, hub: FakeHub) -> None:
    command = [sys.executable, "-m", "teenytinyllama.cli", "publish", str(run_dir), "--to"]
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    env["HF_HUB_DISABLE_XET"] = "1"
    dry = subprocess.run([*command, "ana/pequeno"], capture_output=True, text=True, env=env)
    assert dry.returncode == 0, dry.stderr
    assert "Nothing was sent" in dry.stderr
    assert hub.repos == {}
    sent = subprocess.run(
        [*command, "ana/pequeno", "--upload"], capture_output=True, text=True, env=env
    )
    assert sent.returncode == 0, sent.stderr
    assert len(hub.repos) == 3
    assert TOKEN not in sent.stdout + sent.stderr
    wrong = subprocess.run(
        [*command, "ana/pequeno", "--only", "modle"], capture_output=True, text=True, env=env
    )
    assert wrong.returncode == 2
    assert 'did you mean "model"?' in wrong.stderr
