"""The page in a real browser, where one is installed: nothing fetched, nothing on the console."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.report_run import STAGE_NAMES, build_run

from teenytinyllama.energy import EnergyMeter
from teenytinyllama.settings.base import EnergySettings
from teenytinyllama.settings.post_training import ReportSettings
from teenytinyllama.stages.interface import StageContext
from teenytinyllama.stages.report import stage as report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_no_request_leaves_and_nothing_is_on_the_console(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run")
    out_dir = run_dir / "report"
    out_dir.mkdir()
    prices = EnergySettings()
    context = StageContext("quickstart", "pt", prices, EnergyMeter(prices))
    folders = {f"{name}_dir": run_dir / name for name in STAGE_NAMES}
    report.run(settings=ReportSettings(), context=context, out_dir=out_dir, **folders)

    net_log = tmp_path / "net.json"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--incognito"]
    command += ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    command += ["--enable-logging=stderr", f"--log-net-log={net_log}", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{out_dir}/index.html"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert console == []
    assert 'id="theme" type="button">' in done.stdout  # the script ran: it showed the button
    assert _requested(net_log) == ""


def _requested(net_log: Path) -> str:
    """All addresses that the browser asked for, but those of its own housekeeping."""
    events = json.loads(net_log.read_text())["events"]
    urls = {e["params"]["url"] for e in events if "url" in e.get("params", {})}
    foreign = sorted(url for url in urls if not url.startswith(("file:", "data:", "chrome")))
    own = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")
    return " ".join(url for url in foreign if not any(name in url for name in own))
