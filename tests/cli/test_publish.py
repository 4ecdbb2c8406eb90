"""`ttl publish` sends nothing without --upload."""

import pytest
from typer.testing import CliRunner

from teenytinyllama.cli.app import app
from teenytinyllama.errors import UserError
from teenytinyllama.publishing import publisher


@pytest.fixture
def done(monkeypatch):
    """What the command did, in order."""
    done = []
    monkeypatch.setattr(publisher, "prepare", lambda request: done.append(request) or ["plan"])
    monkeypatch.setattr(publisher, "describe", lambda plan, public, as_json: "the plan")
    monkeypatch.setattr(publisher, "send", lambda plan, public: done.append(("send", public)))
    monkeypatch.setattr(publisher, "write_folder", lambda plan, path: done.append(("write", path)))
    return done


def invoke(*words):
    result = CliRunner().invoke(app, ["publish", *map(str, words)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_without_upload_nothing_is_sent(done, tmp_path):
    output = invoke(tmp_path, "--to", "ana/small")
    assert "the plan" in output
    assert "Nothing was sent." in output
    assert len(done) == 1


def test_upload_and_folder(done, tmp_path):
    invoke(tmp_path, "--to", "ana/small", "--upload", "--public")
    invoke(tmp_path, "--to", "ana/small", "--upload", "--folder", tmp_path / "out")
    assert [done[1], done[3]] == [("send", True), ("write", tmp_path / "out")]


def test_parts_keep_their_order_and_unknown_ones_are_refused(done, tmp_path):
    invoke(tmp_path, "--to", "ana/small", "--only", "data", "--only", "model")
    assert done[0].parts == ("model", "data")
    with pytest.raises(UserError, match=r'publish-part.*did you mean "model"'):
        invoke(tmp_path, "--to", "ana/small", "--only", "modle")
