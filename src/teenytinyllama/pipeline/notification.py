"""`[notify]`: tells somebody how a run ended, by a command or a request to a web address.

A notification that fails or hangs is one line in the log, and never the end of a run.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from teenytinyllama.errors import Interrupted
from teenytinyllama.pipeline.run_status import read_status
from teenytinyllama.redaction import redact
from teenytinyllama.settings.recipe import NotifySettings

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""A spot machine gives half a minute to live, and the last checkpoint comes first."""


@contextmanager
def notifying(settings: NotifySettings, run_dir: Path) -> Iterator[None]:
    """Around the work of a run: `on_finish` at its end, `on_failure` at any other end."""
    try:
        yield
    except Exception as error:
        event = "stopped" if isinstance(error, Interrupted) else "failed"
        _notify(settings.on_failure, event, str(error), run_dir)
        raise
    _notify(settings.on_finish, "finished", "", run_dir)


def _notify(target: str, event: str, message: str, run_dir: Path) -> None:
    if not target:
        return
    try:
        body = {"event": event, "message": redact(message), "run_dir": str(run_dir)}
        text = json.dumps(body | {"status": asdict(read_status(run_dir))})
        if target.startswith(("http://", "https://")):
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(target, text.encode("utf-8"), headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return
        subprocess.run(
            target,
            shell=True,
            check=True,
            input=text,
            text=True,
            timeout=TIMEOUT_S,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TTL_EVENT": event, "TTL_RUN": str(run_dir)},
        )
    except Exception as error:
        # Whatever went wrong in telling somebody, the run itself has ended as it has.
        logger.warning(f"notify ({event}): {redact(str(error))}")
