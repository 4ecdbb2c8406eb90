from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.running_server import RunningServer, running
from support.small_run import make_run

from teenytinyllama.inference.chat_model import ChatModel, load_chat_model


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("served"), max_position_embeddings=128)


@pytest.fixture(scope="session")
def chat_model(served_run: Path) -> ChatModel:
    return load_chat_model(served_run, name="tiny")


@pytest.fixture(scope="session")
def server(chat_model: ChatModel) -> Iterator[RunningServer]:
    with running([chat_model]) as one:
        yield one
