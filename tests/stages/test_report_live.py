"""Run folders as they stand: unfinished, beside each other, live."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.report_run import FIGURES, build_run, write_stage

from teenytinyllama.errors import UserError
from teenytinyllama.stages.report import live_report
from teenytinyllama.stages.report.report_page import html_of


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make(tmp_path / "run", "quickstart", 1e-3)


def make(folder: Path, name: str, rate: float) -> Path:
    build_run(folder)
    asked = {"language": "pt", "pretrain": {"num_steps": 400, "rate": rate}}
    (folder / "run.json").write_text(json.dumps({"name": name, "recipe": asked}))
    return folder


def test_an_unfinished_training_is_shown_as_such(run_dir: Path) -> None:
    (run_dir / "pretrain/manifest.json").unlink()
    with (run_dir / "pretrain/metrics.jsonl").open("a") as file:
        file.write('{"step": 401, "loss": 1.0')  # cut by a kill
    html = html_of([run_dir])
    assert "steps so far" in html
    assert "of 400" in html
    assert "In training now." in html
    assert 'id="loss"' in html


def test_runs_beside_each_other(tmp_path: Path) -> None:
    runs = [make(tmp_path / n, n, rate) for n, rate in (("a", 1e-3), ("b", 2e-3), ("c", 1e-3))]
    write_stage(
        runs[1], "evaluate", metrics={**FIGURES["evaluate"], "heldout_bits_per_byte": 0.987}
    )
    (runs[2] / "evaluate/manifest.json").unlink()
    html = html_of(runs)
    assert "0.9870" in html
    assert "pretrain.rate" in html
    assert "0.002" in html
    assert "pretrain.num_steps" not in html  # the same in all
    assert html.count("not run") >= 3  # run c has no scores


def test_runs_of_one_name_are_told_apart_by_folder(tmp_path: Path) -> None:
    runs = [make(tmp_path / n, "same", 1e-3) for n in ("a", "b")]
    html = html_of(runs)
    assert str(runs[0]) in html
    assert "All settings are the same." in html


def test_too_many_runs_and_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run-missing"):
        html_of([tmp_path])
    with pytest.raises(UserError, match="too-many-runs"):
        html_of([tmp_path] * 7)


def test_the_live_page_follows_the_run(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    ready = threading.Event()

    class Watched(ThreadingHTTPServer):
        def serve_forever(self, poll_interval: float = 0.05) -> None:
            started.append(self)
            ready.set()
            super().serve_forever(poll_interval)

    monkeypatch.setattr(live_report, "ThreadingHTTPServer", Watched)
    thread = threading.Thread(
        target=live_report.serve, args=(run_dir,), kwargs={"port": 0}, daemon=True
    )
    thread.start()
    assert ready.wait(5)
    address = f"http://127.0.0.1:{started[0].server_port}"
    try:
        assert "2,753,664" in _get(address + "/")
        (run_dir / "pretrain/manifest.json").unlink()
        page = _get(address + "/")
        assert "2,753,664" not in page
        assert 'http-equiv="refresh"' in page
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _get(address + "/../../etc/passwd")
    finally:
        started[0].shutdown()
        thread.join(5)


def _get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=5) as answer:
        text: str = answer.read().decode()
        return text
