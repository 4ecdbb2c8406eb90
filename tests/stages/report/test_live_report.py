from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.report_run import build_run

from teenytinyllama.stages.report import live_report


def test_live_page_follows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = build_run(tmp_path, "quickstart")
    started: list[Any] = []
    ready = threading.Event()

    class RecordedServer(ThreadingHTTPServer):
        def serve_forever(self, poll_interval: float = 0.05) -> None:
            started.append(self)
            ready.set()
            super().serve_forever(poll_interval)

    monkeypatch.setattr(live_report, "ThreadingHTTPServer", RecordedServer)
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
    with urllib.request.urlopen(address, timeout=5) as response:
        text: str = response.read().decode()
        return text
