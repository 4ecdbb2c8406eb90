"""`ttl report --watch`: the page of a run, served while the run is in progress."""

from __future__ import annotations

import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from teenytinyllama.errors import UserError
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.report.renderers import render
from teenytinyllama.stages.report.report_page import make_page
from teenytinyllama.stages.report.run_record import read_run

logger = logging.getLogger(__name__)


REFRESH_INTERVAL_S = 10


def serve(run_dir: Path, *, port: int) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C; each request reads the run again.

    It answers only GET requests, and only with the page. Raises UserError if `run_dir` is not a
    run folder or the port is taken.
    """
    read_run(run_dir)  # fail now, not at the first request

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            try:
                body = render(
                    make_page(read_run(run_dir), ReportSettings()),
                    refresh_s=REFRESH_INTERVAL_S,
                )
            except UserError as error:
                self.send_error(503, "the run cannot be read", str(error))
                return
            data = body.encode("utf-8")
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Do not log requests."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        what = f"cannot listen on this port ({error.strerror})"
        raise UserError("port-busy", f"--port {port}", what, "choose another --port") from error
    with server:
        logger.info(
            f"{run_dir} is shown at http://127.0.0.1:{server.server_port}/ (Ctrl-C to stop)"
        )
        server.serve_forever()
