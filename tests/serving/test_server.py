"""Starting the server: what is in the way is named, with what to type; what changes is noticed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.running_server import running

from teenytinyllama.errors import UserError
from teenytinyllama.inference.chat_model import ChatModel
from teenytinyllama.serving.http_server import listen
from teenytinyllama.serving.limits import Limits
from teenytinyllama.serving.server import load_all, read_key


def test_a_port_in_use_names_its_owner_and_the_next_one() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.code == "port-in-use"
    if Path("/proc/net/tcp").is_file():
        assert f"by process {os.getpid()}" in caught.value.what
    assert caught.value.fix == f"--port {port + 1}"


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        listen("192.0.2.1", 0)  # set aside for documentation: nobody has it
    assert caught.value.code == "serve-host"


@pytest.mark.parametrize(
    ("content", "words"),
    [("curta", "a key of 5 characters"), ("uma chave com espaços", "characters"), (None, "read")],
)
def test_a_key_that_protects_nothing_is_refused(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_key(path)
    assert caught.value.code == "api-key-file" and words in caught.value.what
    path.write_text("uma-chave-de-verdade\n", encoding="utf-8")
    assert read_key(path) == "uma-chave-de-verdade"


def test_a_limit_that_is_none_is_named() -> None:
    for assignment, words in (("max_row=3", "max_rows"), ("max_rows=0", "--set max_rows=64")):
        with pytest.raises(UserError) as caught:
            Limits().changed(assignment)
        assert words in caught.value.fix


def test_a_model_named_twice_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_all([tmp_path, tmp_path])
    assert caught.value.code == "model-twice"


def test_weights_replaced_while_serving_are_noticed_and_the_old_ones_answer(
    chat_model: ChatModel, tmp_path: Path
) -> None:
    folder = shutil.copytree(chat_model.folder, tmp_path / "final")
    asked = {"model": "tiny", "prompt": "A raposa", "max_tokens": 4, "temperature": 0}
    with running([replace(chat_model, folder=folder)]) as server:
        before = server.ask("/v1/completions", asked)[1]["choices"]
        assert server.ask("/health")[1]["models"] == {"tiny": "as loaded"}
        (folder / "model.safetensors").write_bytes(b"another model")
        assert server.ask("/health")[1]["models"] == {"tiny": "changed on disk"}
        assert server.ask("/v1/completions", asked)[1]["choices"] == before
