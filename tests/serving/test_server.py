"""Starting the server: ports, keys and models that cannot be used are errors with a fix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.serving.server import listen, load_all, read_key


def test_a_port_in_use_names_its_process_and_another_port() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.code == "port-in-use"
    if Path("/proc/net/tcp").is_file():
        assert f"by process {os.getpid()}" in caught.value.what
    assert caught.value.fix == f"--port {port + 1}"


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(UserError) as caught:
        listen("192.0.2.1", 0)  # reserved for documentation: nobody has it
    assert caught.value.code == "serve-host"


@pytest.mark.parametrize(
    ("content", "words"),
    [("curta", "a key of 5 characters"), ("uma chave com espaços", "characters"), (None, "read")],
)
def test_a_weak_or_missing_key_is_an_error(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_key(path)
    assert caught.value.code == "api-key-file" and words in caught.value.what
    path.write_text("uma-chave-de-verdade\n", encoding="utf-8")
    assert read_key(path) == "uma-chave-de-verdade"


def test_a_model_given_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_all([tmp_path, tmp_path])
    assert caught.value.code == "model-twice"
