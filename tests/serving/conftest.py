from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.running_server import Running, running
from support.small_run import make_run

from teenytinyllama.inference.chat_model import Talker, load_talker


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("served"), max_position_embeddings=128)


@pytest.fixture(scope="session")
def talker(served_run: Path) -> Talker:
    return load_talker(served_run, name="tiny")


@pytest.fixture(scope="session")
def server(talker: Talker) -> Iterator[Running]:
    with running([talker]) as one:
        yield one
