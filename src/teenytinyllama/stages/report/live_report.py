"""Pages of run folders as they stand: one run finished or not, several beside each other, live.

Unlike the stage, these read what an unfinished stage left so far; nothing is written into a run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from teenytinyllama.artifacts.manifest import STAGE_NAMES
from teenytinyllama.errors import UserError
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.report.page_blocks import Page
from teenytinyllama.stages.report.renderers import render
from teenytinyllama.stages.report.run_record import RunRecord, read_manifests

logger = logging.getLogger(__name__)


SECONDS_BETWEEN_READINGS = 10


def read_run(run_dir: Path) -> RunRecord:
    """What a run folder holds now, unfinished stages too. Raises UserError for another folder."""
    path = run_dir / "run.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        recipe = whole["recipe"]
        prices = EnergySettings.model_validate_json(json.dumps(recipe.get("energy", {})))
        name, language = str(whole["name"]), str(recipe.get("language", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = "is not the folder of a run (no run.json that can be read)"
        raise UserError("run-missing", str(run_dir), what, "ls runs/") from error
    folders = {stage: run_dir / stage for stage in STAGE_NAMES}
    stages = read_manifests(folders)
    return RunRecord(
        name=name,
        language=language,
        usd_per_gpu_hour=prices.usd_per_gpu_hour,
        usd_per_kwh=prices.usd_per_kwh,
        country=prices.country,
        stages=stages,
        unfinished={
            stage: folder
            for stage, folder in folders.items()
            if stage not in stages and folder.is_dir() and any(folder.iterdir())
        },
        asked=recipe,
    )


def page_of(run_dir: Path, make_page: Any) -> Page:
    """The page of one run folder."""
    page: Page = make_page(read_run(run_dir), ReportSettings())
    return page


def serve(run_dir: Path, make_page: Any, *, port: int) -> None:
    """Serve the page on this machine, read anew at each request, until Ctrl-C.

    It answers on 127.0.0.1 alone, to GET alone, and with nothing but the page.
    """
    read_run(run_dir)  # an error now, not at the first request

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            try:
                body = render(page_of(run_dir, make_page), refresh_s=SECONDS_BETWEEN_READINGS)
            except UserError as error:
                self.send_error(503, "the run cannot be read now", str(error))
                return
            data = body.encode("utf-8")
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Requests are not worth a line."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        what = f"cannot be listened on ({error.strerror})"
        raise UserError("port-busy", f"--port {port}", what, "choose another --port") from error
    with server:
        logger.info(f"http://127.0.0.1:{server.server_port}/ shows {run_dir}; Ctrl-C ends it.")
        server.serve_forever()


def different_settings(runs: list[RunRecord]) -> Iterator[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, by full name, with each run's value."""
    flat = [dict(_flat(run.asked)) for run in runs]
    for name in sorted(set().union(*flat)):
        values = [json.dumps(one[name], ensure_ascii=False) if name in one else "–" for one in flat]
        if len(set(values)) > 1 and name != "name":
            yield name, values


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
