"""Starting the server: ports, keys and models that cannot be used are errors with a fix."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.serving.server import check_local, listen, load_all, read_key, run


def test_a_port_in_use_names_its_process_and_another_port() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.code == "port-in-use"
    if Path("/proc/net/tcp").is_file():
        assert f"by process {os.getpid()}" in caught.value.what
    assert caught.value.fix == f"--port {port + 1}"


# The second is reserved for documentation: nobody has it.
@pytest.mark.parametrize("host", ["", "192.0.2.1"])
def test_an_address_of_another_machine_is_an_error(host: str) -> None:
    with pytest.raises(UserError) as caught:
        listen(host, 0)
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


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_need_a_key_or_no_key(host: str, tmp_path: Path) -> None:
    if host == "::" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with listen(host, 0) as listener, pytest.raises(UserError) as caught:
        check_local(host, listener)
    assert caught.value.code == "serve-without-key"
    assert "--api-key-file" in caught.value.fix and "--no-key" in caught.value.fix
    with pytest.raises(UserError, match="serve-without-key"):
        run(models=[tmp_path], host=host, port=0)
    with pytest.raises(UserError, match="model-missing"):  # nothing but the model is wrong then
        run(models=[tmp_path], host=host, port=0, needs_no_key=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9"])
def test_this_machine_needs_no_key(host: str) -> None:
    with listen(host, 0) as listener:
        check_local(host, listener)


def test_a_key_and_no_key_are_not_given_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--no-key"):
        run(models=[tmp_path], api_key_path=tmp_path / "key", needs_no_key=True)
