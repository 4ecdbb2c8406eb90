"""Pages of run folders as they stand: one run finished or not, several beside each other, live.

Unlike the stage, these read what an unfinished stage left so far; nothing is written into a run.
"""

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


SECONDS_BETWEEN_READINGS = 10


def serve(run_dir: Path, *, port: int) -> None:
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
                body = render(
                    make_page(read_run(run_dir), ReportSettings()),
                    refresh_s=SECONDS_BETWEEN_READINGS,
                )
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
