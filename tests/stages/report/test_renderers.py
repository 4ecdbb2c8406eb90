from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.report_run import COUNTS, EVIL, build_run, make_page, make_report, write_stage

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class _ActiveContent(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("src", "srcset", "data", "poster", "action") or (
                name == "href" and not (value or "").startswith("#")
            ):
                self.fetched.append(f"{tag} {name}={value}")


def test_page_fetches_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    html = make_page(build_run(tmp_path))
    active = _ActiveContent()
    active.feed(html)
    assert active.fetched == []
    assert active.handlers == []
    assert active.scripts == 1
    for text in ("url(", "@import", EVIL):
        assert text not in html
    assert html.count("&lt;script&gt;alert(1)") >= 6  # source, samples, chat, removed text


def test_names_and_texts_have_their_own_direction(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    sources = {"كتب (2)": COUNTS["corpus"]["sources"]["livros"]}
    write_stage(run_dir, "corpus", counts={**COUNTS["corpus"], "sources": sources})
    html = make_page(run_dir)
    assert re.search(r'<th class="" dir="auto">\s*كتب \(2\)', html)
    assert '<td class="n " dir' not in html  # numbers
    text = re.search(r"\.text\{[^}]*\}", html)
    assert text is not None
    assert "unicode-bidi:plaintext" in text[0]  # every line of a text, as its letters say


def test_tables_and_plots_match_the_page(tmp_path: Path) -> None:
    out_dir = make_report(build_run(tmp_path))
    with (out_dir / "tables/corpus_funnel.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["source"] == "all"
    assert rows[-1]["kept"] == "870"
    for name in ("loss", "over_the_paper", "heldout_bpb"):
        root = ElementTree.parse(out_dir / "plots" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")


def test_spreadsheet_formula_is_quoted(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    sources = {"=cmd|' /C calc'!A0": COUNTS["corpus"]["sources"]["livros"]}
    write_stage(run_dir, "corpus", counts={**COUNTS["corpus"], "sources": sources})
    assert "'=cmd" in (make_report(run_dir) / "tables/corpus_funnel.csv").read_text()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_browser_sends_no_request_and_logs_no_error(tmp_path: Path) -> None:
    out_dir = make_report(build_run(tmp_path / "run"))
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
    """All addresses that the browser requested, except its own background requests."""
    events = json.loads(net_log.read_text())["events"]
    urls = {e["params"]["url"] for e in events if "url" in e.get("params", {})}
    foreign = sorted(url for url in urls if not url.startswith(("file:", "data:", "chrome")))
    own = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")
    return " ".join(url for url in foreign if not any(name in url for name in own))
