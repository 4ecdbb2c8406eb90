"""Commands and web addresses that are told how a run ends."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support.command_line import SMALL_RECIPE, log_of

from teenytinyllama.errors import Interrupted
from teenytinyllama.pipeline import notification
from teenytinyllama.settings.recipe import NotifySettings


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_RECIPE)
    return path


def notify(key: str, command: str) -> tuple[str, str]:
    return "--set", f"notify.{key}={json.dumps(command)}"


def test_a_command_is_told_of_the_end_and_of_nothing_else(recipe: Path, tmp_path: Path) -> None:
    run, told = tmp_path / "run", tmp_path / "told"
    both = (
        *notify("on_finish", f"cat > {told}; echo $TTL_EVENT $TTL_RUN >&2"),
        *notify("on_failure", f"touch {tmp_path / 'failed'}"),
    )
    said = log_of("run", recipe, "--run-dir", run, *both)
    assert f"finished {run}" in said
    body = json.loads(told.read_text())
    assert (body["event"], body["status"]["stages"][0]["state"]) == ("finished", "done")
    assert not (tmp_path / "failed").exists()


def test_a_command_is_told_of_an_error(recipe: Path, tmp_path: Path) -> None:
    run, told = tmp_path / "run", tmp_path / "told"
    wrong = "corpus.sources=[{ kind = 'files', path = 'nowhere.txt', license = 'CC0-1.0' }]"
    command = notify("on_failure", f"cat > {told}")
    said = log_of("run", recipe, "--run-dir", run, "--set", wrong, *command, code=2)
    assert "nowhere.txt" in said
    body = json.loads(told.read_text())
    assert body["event"] == "failed"
    assert "nowhere.txt" in body["message"]


@pytest.mark.parametrize("command", ["exit 3", "no-such-program-here"])
def test_a_command_that_fails_is_one_line(recipe: Path, tmp_path: Path, command: str) -> None:
    said = log_of("run", recipe, "--run-dir", tmp_path / "r", *notify("on_finish", command))
    assert len([line for line in said.splitlines() if line.startswith("notify (finished)")]) == 1


def test_a_command_that_hangs_does_not_keep_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"name": "a", "recipe": {}}')
    monkeypatch.setattr(notification, "TIMEOUT_S", 0.2)
    started = time.monotonic()
    settings = NotifySettings(on_failure="sleep 60")
    with pytest.raises(Interrupted), notification.notifying(settings, tmp_path):
        raise Interrupted("SIGTERM")
    assert time.monotonic() - started < 10
    assert "notify (stopped): Command 'sleep 60' timed out" in capsys.readouterr().err


def test_a_web_address_gets_the_status(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "a", "recipe": {}}')
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/hook"
        with notification.notifying(NotifySettings(on_finish=address), tmp_path):
            pass
        thread.join()
    assert [body["event"] for body in bodies] == ["finished"]
    assert bodies[0]["status"]["name"] == "a"
