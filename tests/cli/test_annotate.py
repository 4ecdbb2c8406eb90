"""`ttl annotate` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fake_endpoint import answer, endpoint

from teenytinyllama.cli import main as command_line

pytest.importorskip("openai")


def test_it_says_how_its_labels_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("".join(f'{{"text": "Um texto {n}."}}\n' for n in range(30)))
    source = {"kind": "files", "path": "a.jsonl", "license": "CC0-1.0"}
    inline = ", ".join(f"{key} = {json.dumps(value)}" for key, value in source.items())
    Path("r.toml").write_text(f'name = "r"\n[corpus]\nsources = [{{ {inline} }}]\n')
    with endpoint(lambda *_: answer("Nota: 3")) as (url, _):
        command = ["ttl", "annotate", "r.toml", "--endpoint", url, "--model", "grande"]
        monkeypatch.setattr("sys.argv", [*command, "--documents", "20", "--usd-read", "2"])
        assert command_line._run(debug=False) == 0
        said = capsys.readouterr()
        assert 'labels_path = "labels.jsonl"' in said.out and "3  20" in said.out
        assert "20 of 20 documents to score (a 20), about" in said.err and "$0.0" in said.err
        monkeypatch.setattr("sys.argv", [*command, "--max-usd", "1"])
        assert command_line._run(debug=False) == 2
    assert "needs the prices" in capsys.readouterr().err
