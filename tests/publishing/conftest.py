from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_hub import TOKEN, FakeHub, fake_hub
from support.finished_run import build


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return build(tmp_path / "run")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Large files over plain HTTP: the newer protocol speaks to the Hub's own servers only.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with fake_hub() as one:
        yield one
